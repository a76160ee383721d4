"""Hostile input against real processes: cases that the everyday tests run, and `make hostile` repeats."""
