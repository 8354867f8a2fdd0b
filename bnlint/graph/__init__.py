"""The model as a graph: recorded ops, axis roles, source lines, and the questions rules ask of them."""
