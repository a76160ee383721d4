"""Least privileges of each process in each store."""
