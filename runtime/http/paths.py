"""Paths that several modules of the API use."""

INTERACTIONS = "/v1/retrievers/interactions"
BEACON = f"{INTERACTIONS}/beacon"
HEALTH = "/v1/health"
READY = "/v1/ready"
METRICS = "/metrics"
DOCS = "/docs"

OPERATIONS = (HEALTH, READY, METRICS)
WITHOUT_KEY = (*OPERATIONS, BEACON)
"""Paths without an API key. A beacon has a page token instead."""
