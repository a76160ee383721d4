"""Alerts and the dashboard of Prometheus metrics."""
