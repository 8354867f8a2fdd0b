"""The activation rules."""
