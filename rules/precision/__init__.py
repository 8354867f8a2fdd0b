"""The precision rules."""
