"""The norm rules."""
