"""Table of docs/capacity.md: `python -m tally.capacity_doc` prints the page with the current table."""

import re
import sys
from pathlib import Path

from runtime.settings import Settings
from tally.capacity import Load, need_of

PAGE = Path(__file__).parent.parent / "docs" / "capacity.md"
LOADS = (100, 1_000, 10_000, 100_000, 1_000_000)

_COLUMNS = (
    "events/s, average",
    "at the peak",
    "partitions",
    "workers",
    "memory each",
    "Kafka cores",
    "topic",
    "Redis",
    "ClickHouse cores",
    "table",
)
_HEAD = f"| {' | '.join(_COLUMNS)} |\n{'|---' * len(_COLUMNS)}|\n"
_TABLE = re.compile(r"\| events/s, average .*?(?=\n\n)", re.DOTALL)


def as_markdown() -> str:
    """Return the table."""
    rows = []
    for events_per_s in LOADS:
        load = Load(events_per_s)
        need = need_of(load, Settings())
        rows.append(
            f"| {events_per_s:,} | {events_per_s * load.peak:,.0f} | {need.partitions} | {need.workers} "
            f"| {need.worker_memory_gib} GiB | {need.kafka_cores} | {need.topic_tib:,} TiB "
            f"| {need.redis_cores} cores, {need.redis_gib:,} GiB | {need.clickhouse_cores} | {need.table_tib:,} TiB |"
        )
    return _HEAD + "\n".join(rows)


def page() -> str:
    """Return the page with the current table in place of the old one."""
    return _TABLE.sub(lambda _: as_markdown(), PAGE.read_text(), count=1)


if __name__ == "__main__":
    sys.stdout.write(page())
