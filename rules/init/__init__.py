"""The init rules."""
