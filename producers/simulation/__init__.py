"""Simulator of search sessions with a known truth: world, people, behaviour, faults, and exact expectations."""
