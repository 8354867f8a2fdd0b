"""The gradient rules."""
