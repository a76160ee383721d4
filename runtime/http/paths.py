"""Paths that several modules of the API use."""

START = "/"
INTERACTIONS = "/v1/retrievers/interactions"
BEACON = f"{INTERACTIONS}/beacon"
HEALTH = "/v1/health"
READY = "/v1/ready"
METRICS = "/metrics"
DOCS = "/docs"
SCHEMA = "/openapi.json"

OPERATIONS = (HEALTH, READY, METRICS)
WITHOUT_KEY = (START, *OPERATIONS, BEACON)
"""Paths without an API key. A beacon has a page token instead."""
