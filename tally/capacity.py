"""Capacity of a load, from the measured cost of an event (docs/performance.md).

Everything is arithmetic on the constants below; docs/capacity.md says how they were measured, and their limits.
"""

import math
from typing import TYPE_CHECKING, NamedTuple

from runtime.sizes import MIB

if TYPE_CHECKING:
    from runtime.settings import Settings

EVENT_BYTES = 533
"""Size as JSON of the events that the other constants were measured with."""
WORKER_US, CLICKHOUSE_US, BROKER_US, REDIS_US = 6.6, 4.7, 0.3, 0.3
"""CPU microseconds per event: the highest median of `make bench`, for ClickHouse with merges."""
TOPIC_BYTES, TABLE_BYTES = 113, 117
"""Bytes per event on disk: in full lz4 batches, and in the merged table."""
CLAIM_BYTES, INDEX_BYTES = 56, 11.4
"""Bytes per claim in Redis, and at most in the index of the worker of its partition."""
WORKER_BASE_BYTES = 310 * MIB
"""Memory of a worker without claims: libraries, two groups and fetched records."""
EVENTS_PER_PARTITION = 25_000
"""Events per second. At this rate the claims of a partition are loaded in seconds (4 M per second, measured)."""
TOPIC_REPLICAS, TABLE_REPLICAS = 3, 2
UTILISATION = 0.5
"""Utilisation of each core and each worker at the peak: the rest is for losing a machine and catching up."""
GIB, TIB, DAY_S = 1024**3, 1024**4, 86_400


class Load(NamedTuple):
    """The load to plan for."""

    events_per_s: float
    """Average rate."""
    peak: float = 3.0
    """Peak rate as a multiple of the average."""
    days: int = 365
    """Days that stored events are kept."""
    event_bytes: int = EVENT_BYTES


class Need(NamedTuple):
    """Capacity that a load needs."""

    partitions: int
    workers: int
    worker_memory_gib: float
    clickhouse_cores: int
    table_tib: float
    kafka_cores: int
    topic_tib: float
    redis_cores: int
    redis_gib: float
    rows: float


def need_of(load: Load, settings: "Settings") -> Need:
    """Estimate processes, memory and disk of a load, with the window and retention of the settings."""
    peak = load.events_per_s * load.peak
    size = load.event_bytes / EVENT_BYTES
    workers = max(2, _cores(peak, WORKER_US * size, UTILISATION))
    per_worker = -(-max(8, math.ceil(peak / EVENTS_PER_PARTITION)) // workers)
    claims = peak * settings.claim_ttl_ms / 1000
    kept_ms = settings.topic_retention_ms
    topic_days = kept_ms / 1000 / DAY_S if kept_ms >= 0 else load.days
    rows = load.events_per_s * DAY_S * load.days
    return Need(
        partitions=per_worker * workers,
        workers=workers,
        worker_memory_gib=round((WORKER_BASE_BYTES + claims / workers * INDEX_BYTES) / GIB, 1),
        clickhouse_cores=_cores(peak, CLICKHOUSE_US * size, UTILISATION) * TABLE_REPLICAS,
        table_tib=round(rows * TABLE_BYTES * size * TABLE_REPLICAS / TIB, 2),
        kafka_cores=_cores(peak, BROKER_US * size, UTILISATION) * TOPIC_REPLICAS,
        topic_tib=round(load.events_per_s * DAY_S * topic_days * TOPIC_BYTES * size * TOPIC_REPLICAS / TIB, 2),
        redis_cores=_cores(peak, REDIS_US, UTILISATION),
        redis_gib=round(claims * CLAIM_BYTES / GIB, 1),
        rows=rows,
    )


def _cores(events_per_s: float, microseconds: float, use: float) -> int:
    return max(1, math.ceil(events_per_s * microseconds / 1e6 / use))
