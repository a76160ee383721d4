"""Comparison of two rankings by interleaving."""
