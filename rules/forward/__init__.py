"""The forward rules."""
