"""What the API counts, for `/metrics`. Names stay: dashboards are made of them."""

from prometheus_client import Counter, Histogram

REQUESTS = Counter("tally_http_requests", "Requests answered", ["method", "route", "status"])
SECONDS = Histogram(
    "tally_http_request_seconds",
    "From the first byte in to the last byte out",
    ["method", "route"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
ACCEPTED = Counter("tally_http_events_accepted", "Events that Kafka acknowledged", ["route"])
REFUSED = Counter("tally_http_events_refused", "Events that were not accepted", ["route", "reason"])
WITHOUT_REDIS = Counter(
    "tally_http_without_redis", "Requests that went on without what Redis would have said", ["purpose"]
)
