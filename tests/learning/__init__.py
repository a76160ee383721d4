"""Campaigns of estimates from events."""
