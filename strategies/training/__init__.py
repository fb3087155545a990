"""Offline training, run in a process of its own; the one place in strategies that may do file I/O."""
