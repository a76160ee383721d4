"""The API's paths that more than one part of it speaks of."""

INTERACTIONS = "/v1/retrievers/interactions"
BEACON = f"{INTERACTIONS}/beacon"
HEALTH = "/v1/health"
READY = "/v1/ready"
METRICS = "/metrics"

OPERATIONS = (HEALTH, READY, METRICS)
WITHOUT_KEY = (*OPERATIONS, BEACON)
"""A beacon brings a token."""
