"""Measured cost: Tally beside other ways to do the same."""
