"""Every metric, in one list. Names are stable: dashboards and alerts depend on them.

A counter's name gets the suffix `_total` when it is exposed. Label cardinality is bounded: no ids, no raw paths, and
at most MAX_NAMESPACES namespaces per process; further ones are counted together as OTHER_NAMESPACES.
"""

from prometheus_client import Counter, Gauge, Histogram

MAX_NAMESPACES = 500
OTHER_NAMESPACES = "(others)"
NO_NAMESPACE = "(none)"
"""Label of records without a readable namespace."""

_REQUEST_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_AGE_SECONDS = (0.025, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 2.5, 5, 15, 60, 300, 1800, 7200)
_RECORDS = (1, 10, 100, 500, 1_000, 2_500, 5_000, 8_192, 16_384, 50_000, 150_000, 500_000)

BUILD = Gauge("tally_build_info", "1, labelled with the running version.", ["version"])

# The API.
REQUESTS = Counter("tally_http_requests", "HTTP requests answered.", ["method", "route", "status"])
REQUEST_SECONDS = Histogram(
    "tally_http_request_seconds",
    "Seconds from a request's first byte received to its last byte sent.",
    ["method", "route"],
    buckets=_REQUEST_SECONDS,
)
REQUESTS_IN_FLIGHT = Gauge("tally_http_in_flight", "Requests in flight.")
CONNECTIONS = Gauge("tally_http_connections", "Open connections of an API process.")
CONNECTIONS_REFUSED = Counter(
    "tally_http_connections_refused",
    "Connections that ended before a request was served, by status; `unread` and `malformed` were cut without one.",
    ["status"],
)
ACCEPTED = Counter("tally_http_events_accepted", "Events acknowledged by Kafka.", ["route"])
REFUSED = Counter("tally_http_events_refused", "Events not accepted by the collector.", ["route", "reason"])
REDIS_BYPASSED = Counter(
    "tally_http_redis_bypassed",
    "Requests served without Redis (rate limits and duplicate hints skipped), and counts of refused events lost by it.",
    ["purpose"],
)
SESSION_READS = Counter(
    "tally_weight_session_reads",
    "Sessions whose signals were read for weights: whole in Redis, rebuilt from ClickHouse, empty, too_large, or "
    "unavailable because a store did not answer.",
    ["outcome"],
)
UNACKNOWLEDGED = Gauge(
    "tally_collector_unacknowledged_events", "Events received by the collector and not acknowledged by Kafka yet."
)

DIRECT_BATCHES = Gauge(
    "tally_collector_direct_batches",
    "1 when record batches are queued directly, 0 when an unknown version of aiokafka sends them its public way.",
)

# The consumer group as a reader sees it, independent of live workers.
LAG = Gauge("tally_lag_records", "Records on the topic that are not committed yet.", ["partition"])
LAG_SECONDS = Gauge("tally_lag_seconds", "Seconds since the group was last fully caught up.")
STUCK_SECONDS = Gauge(
    "tally_partition_stuck_seconds",
    "Seconds since the last commit of a partition whose records wait longer than TALLY_STUCK_MS; 0 for others.",
    ["topic", "partition"],
)
STUCK_OFFSET = Gauge(
    "tally_partition_stuck_offset",
    "Offset of the first record that waits in a stuck partition; no sample for others.",
    ["topic", "partition"],
)

# The tracking, measured by one reader at a time.
TRACKING_FAULT_EXCESS = Gauge(
    "tally_tracking_fault_excess",
    "Share of faults in the tracking of the last hour, divided by the share that the check allows: it fails above 1.",
    ["namespace", "check"],
)

# The counts that weights are learned from. One API process at a time counts; every one has the age.
LEARNING_COUNTS_AGE = Gauge(
    "tally_learning_counts_age_seconds",
    "Seconds since the time before which every stored event is in the counts of learned weights, in the namespace "
    "where they are oldest; 0 without learning configurations.",
)
LEARNING_DAYS_COUNTED = Counter("tally_learning_days_counted", "Days of retrievers counted for learned weights.")
LEARNING_ROWS_COUNTED = Counter("tally_learning_rows_counted", "Rows written by counts for learned weights.")
LEARNING_COUNT_SECONDS = Counter("tally_learning_count_seconds", "Seconds spent counting for learned weights.")
WEIGHTS_BREAKER_OPEN = Gauge(
    "tally_weights_breaker_open", "Retrievers whose circuit breaker is open: static weights are served."
)
WEIGHT_DAYS_AT_CLIP = Gauge(
    "tally_weight_days_at_clip",
    "Consecutive days until today, of the last 14, on which a feature's share was at min_weight or max_weight.",
    ["namespace", "retriever", "feature"],
)

# Learned weights, in API processes.
WEIGHT_DECISIONS = Counter(
    "tally_weights_decisions",
    "Answers to requests for weights, by the level of the served weights and by reason: learned, shadow, or why "
    "static weights were served.",
    ["level", "reason"],
)
WEIGHT_CONTEXTS = Gauge("tally_weights_contexts", "Contexts (users, segments) whose posterior is in memory.")
WEIGHT_MISSES = Counter(
    "tally_weights_context_misses", "Contexts whose counts were read from ClickHouse for a request."
)
SIGNALS_DROPPED = Counter(
    "tally_signals_dropped",
    "Decisions that were not recorded, because TALLY_SIGNALS_WAITING of them or TALLY_SIGNALS_WAITING_BYTES waited, or "
    "the process had to stop.",
)

# The workers.
EVENTS = Counter("tally_worker_events", "Records processed, by outcome.", ["outcome"])
LAST_EVENT = Gauge(
    "tally_worker_last_event_timestamp_seconds",
    "Append time of the last valid event, in seconds since 1970.",
    ["namespace", "interaction_type"],
)
FRESHNESS = Histogram(
    "tally_worker_freshness_seconds",
    "Delay from append to committed outcome; one observation per batch, of its oldest record.",
    buckets=_AGE_SECONDS,
)
BATCH_AGE = Histogram(
    "tally_worker_batch_age_seconds",
    "Delay from append to validation; one observation per batch, of its oldest record.",
    buckets=_AGE_SECONDS,
)
BATCH_RECORDS = Histogram("tally_worker_batch_records", "Records per batch.", buckets=_RECORDS)
INSERT_ROWS = Histogram("tally_worker_insert_rows", "Rows per insert.", buckets=_RECORDS)
STAGE_SECONDS = Counter(
    "tally_worker_stage_seconds", "Seconds spent per stage; stages of neighbouring batches overlap.", ["stage"]
)
REJECTED = Counter(
    "tally_worker_rejected_events", "Records rejected by validation or by the table, by namespace.", ["namespace"]
)
REJECT_FUSES = Gauge(
    "tally_worker_reject_fuses_tripped",
    "1 for each namespace of which at least half of the last TALLY_REJECT_WINDOW records were rejected.",
    ["namespace"],
)
DEAD_LETTERS = Counter("tally_worker_dead_letters", "Dead letters written, by reason.", ["reason"])
CLAIMS = Gauge("tally_worker_claims", "Claims in the worker's index.")
CLAIMS_REBUILT = Counter("tally_worker_claims_rebuilt", "Claims lost in Redis and rebuilt from ClickHouse.")
PARTITIONS = Gauge("tally_worker_partitions", "Partitions assigned to this worker.")
INTERNAL_ERRORS = Counter(
    "tally_worker_internal_errors", "Records made dead letters because processing them raised an unexpected error."
)
WHOLE_BATCHES = Gauge(
    "tally_worker_whole_batches",
    "1 when Kafka's record batches are returned whole, 0 when an unknown version of aiokafka returns single records.",
)
PARTITIONS_HELD = Gauge("tally_worker_partitions_held", "Partitions paused at a record of a newer schema.")

# All processes.
RETRIES = Counter("tally_retries", "Failed attempts that are retried, by store and kind of error.", ["what", "kind"])

Metric = Counter | Gauge | Histogram

ADDED_GAUGES = (REQUESTS_IN_FLIGHT, CONNECTIONS, UNACKNOWLEDGED, WEIGHTS_BREAKER_OPEN, WEIGHT_CONTEXTS)
"""Gauges of one API process. Processes that share a port answer their sum; other gauges describe the whole system."""


def label_of(namespace: str) -> str:
    """Return the label of a namespace; Prometheus treats an empty label as a missing one."""
    return namespace or NO_NAMESPACE


class NamespaceLabels:
    """Namespace labels of one metric: a label each for the first MAX_NAMESPACES, one for all others."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def of(self, namespace: str) -> str:
        """Return the label that a namespace is counted under."""
        if namespace not in self._known and len(self._known) < MAX_NAMESPACES:
            self._known.add(namespace)
        return label_of(namespace) if namespace in self._known else OTHER_NAMESPACES


def every_metric() -> list[Metric]:
    """Return all metrics, in order of definition."""
    return [each for each in globals().values() if isinstance(each, Counter | Gauge | Histogram)]


def name_of(metric: Metric) -> str:
    """Return the name of a metric's samples; a histogram's samples add suffixes."""
    (family,) = metric.describe()
    return f"{family.name}_total" if isinstance(metric, Counter) else str(family.name)


def help_of(metric: Metric) -> str:
    """Return the help text of a metric."""
    (family,) = metric.describe()
    return str(family.documentation)


def labels_of(metric: Metric) -> tuple[str, ...]:
    """Return the label names of a metric."""
    return tuple(metric._labelnames)  # the library has no public accessor
