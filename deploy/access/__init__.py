"""Least rights of each process in each store."""
