"""Learned weights: configurations, counts by context, weights that are served, session signals, tuning."""
