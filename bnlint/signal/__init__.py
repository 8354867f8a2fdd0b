"""What one real batch does in the model: statistics of activations and gradients."""
