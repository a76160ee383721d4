"""Capacity of a load, from the measured cost of an event (docs/performance.md).

Everything is arithmetic on the constants below; docs/capacity.md says how they were measured, and their limits.
`python -m tally.capacity` prints that page with the current table.
"""

import math
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from runtime.sizes import MIB

if TYPE_CHECKING:
    from runtime.settings import Settings

PAGE = Path(__file__).parent.parent / "docs" / "capacity.md"
LOADS = (100, 1_000, 10_000, 100_000, 1_000_000)
"""Events per second of the page's table."""

EVENT_BYTES = 533
"""Size as JSON of the events that the other constants were measured with."""
WORKER_US, CLICKHOUSE_US, BROKER_US, REDIS_US = 6.6, 4.7, 0.3, 0.3
"""CPU microseconds per event: the highest median of `make bench`, for ClickHouse with merges."""
TOPIC_BYTES, TABLE_BYTES, OLD_TABLE_BYTES = 113, 111, 58
"""Bytes per event on disk: in full lz4 batches, in the merged table, and there once it is recompressed."""
CLAIM_BYTES, INDEX_BYTES = 56, 11.4
"""Bytes per claim in Redis, and at most in the index of the worker of its partition."""
WORKER_BASE_BYTES = 240 * MIB
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
    workers = max(2, _cores(peak, WORKER_US * size))
    per_worker = -(-max(8, math.ceil(peak / EVENTS_PER_PARTITION)) // workers)
    claims = peak * settings.claim_ttl_ms / 1000
    kept_ms = settings.topic_retention_ms
    topic_days = kept_ms / 1000 / DAY_S if kept_ms >= 0 else load.days
    fresh_days = min(load.days, settings.recompress_days or load.days)
    table_bytes = fresh_days * TABLE_BYTES + (load.days - fresh_days) * OLD_TABLE_BYTES
    rows = load.events_per_s * DAY_S * load.days
    return Need(
        partitions=per_worker * workers,
        workers=workers,
        worker_memory_gib=round((WORKER_BASE_BYTES + claims / workers * INDEX_BYTES) / GIB, 1),
        clickhouse_cores=_cores(peak, CLICKHOUSE_US * size) * TABLE_REPLICAS,
        table_tib=round(load.events_per_s * DAY_S * table_bytes * size * TABLE_REPLICAS / TIB, 2),
        kafka_cores=_cores(peak, BROKER_US * size) * TOPIC_REPLICAS,
        topic_tib=round(load.events_per_s * DAY_S * topic_days * TOPIC_BYTES * size * TOPIC_REPLICAS / TIB, 2),
        redis_cores=_cores(peak, REDIS_US),
        redis_gib=round(claims * CLAIM_BYTES / GIB, 1),
        rows=rows,
    )


def _cores(events_per_s: float, microseconds: float) -> int:
    return max(1, math.ceil(events_per_s * microseconds / 1e6 / UTILISATION))


def page(settings: "Settings") -> str:
    """Return the page with the current table in place of the old one."""
    rows = []
    for load in map(Load, LOADS):
        need = need_of(load, settings)
        rows.append(
            f"| {load.events_per_s:,} | {load.events_per_s * load.peak:,.0f} | {need.partitions} | {need.workers} "
            f"| {need.worker_memory_gib} GiB | {need.kafka_cores} | {need.topic_tib:,} TiB "
            f"| {need.redis_cores} cores, {need.redis_gib:,} GiB | {need.clickhouse_cores} | {need.table_tib:,} TiB |"
        )
    return re.sub(r"\| 100 \| .*?(?=\n\n)", lambda _: "\n".join(rows), PAGE.read_text(), count=1, flags=re.DOTALL)


if __name__ == "__main__":
    from runtime.settings import Settings

    sys.stdout.write(page(Settings()))
