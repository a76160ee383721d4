"""Events put on the topic by commands, with progress and outcomes."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from producers.producer import NotAccepted, Producer
from readers.overview import VerdictCounts, count_verdicts_at
from runtime.clickhouse import ClickHouse
from runtime.settings import Settings
from tally.pace import Source

POLL_S = 0.25


@dataclass
class EmitSummary:
    """Events put on the topic so far."""

    accepted: int = 0
    failed: list[NotAccepted] = field(default_factory=list)
    offsets: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    last_id: str = ""


async def feed(
    producer: Producer,
    source: Source,
    *,
    namespace: str,
    keep_offsets: bool = False,
    progress: Callable[[int], None] = lambda _accepted: None,
) -> EmitSummary:
    """Emit everything in `source`. Failures are collected, not raised, so that one does not hide the rest."""
    fed = EmitSummary()
    async for result in producer.emit_many(source, namespace=namespace):
        if isinstance(result, NotAccepted):
            fed.failed.append(result)
            continue
        fed.accepted += 1
        fed.last_id = result.interaction_id
        if keep_offsets and result.offset is not None:
            fed.offsets[result.partition].append(result.offset)
        progress(fed.accepted)
    return fed


async def wait_for_verdicts(
    settings: Settings, database: ClickHouse, fed: EmitSummary, timeout_s: float
) -> VerdictCounts:
    """Wait until everything fed has an outcome, or the time is up, and count the outcomes."""
    deadline = time.monotonic() + timeout_s
    while True:
        counts = await count_verdicts_at(settings, database, fed.offsets)
        if counts.total >= sum(map(len, fed.offsets.values())) or time.monotonic() >= deadline:
            return counts
        await asyncio.sleep(POLL_S)
