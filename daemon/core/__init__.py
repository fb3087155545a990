"""The deterministic engine: one event in, a tuple of effects out; no clock, no socket, no randomness."""
