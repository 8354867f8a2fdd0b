"""The wiring rules."""
