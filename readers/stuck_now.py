"""Search for stuck partitions by a command, which observes them only briefly."""

import asyncio
import time
from collections.abc import Sequence
from functools import partial

from readers.overview import PartitionLag
from runtime import kafka
from runtime.log_batches import LogBatch, find_first_waiting
from runtime.retry import COMMAND_ATTEMPTS, retrying
from runtime.settings import Settings
from runtime.stuck import StuckPartition

OBSERVED_MS = 10_000
"""Longest observation of a suspect partition: workers commit every few seconds."""
LOOK_EVERY_S = 0.2


async def find_stuck(settings: Settings, partitions: Sequence[PartitionLag]) -> list[StuckPartition]:
    """Return the partitions whose first waiting record is older than TALLY_STUCK_MS while nothing is committed.

    Without such records it returns at once. Raises Unavailable when Kafka does not answer.
    """
    lagging = {each.partition: (each.committed, each.end_offset) for each in partitions if each.lag > 0}
    if not lagging:
        return []
    waiting = await find_first_waiting(settings, lagging)
    suspects = {
        partition: _stuck(settings, partition, committed, waiting.get(partition))
        for partition, (committed, _) in lagging.items()
        if partition not in waiting or waiting[partition] is not None
    }
    suspects = {number: each for number, each in suspects.items() if 1000 * each.seconds >= settings.stuck_ms}
    before = {number: lagging[number][0] for number in suspects}
    return [suspects[number] for number in await _unmoved(settings, before)]


def _stuck(settings: Settings, partition: int, committed: int, batch: LogBatch | None) -> StuckPartition:
    """Return a stuck partition; one that cannot be read counts as stuck since TALLY_STUCK_MS."""
    if batch is None:
        return StuckPartition(settings.topic, partition, committed, settings.stuck_ms / 1000)
    return StuckPartition(settings.topic, partition, batch.first, time.time() - batch.last_append_ms / 1000)


async def _unmoved(settings: Settings, before: dict[int, int]) -> list[int]:
    """Return the partitions without a commit during the observation."""
    left, end = set(before), time.monotonic() + min(settings.stuck_ms, OBSERVED_MS) / 1000
    async with kafka.admin(settings) as admin:
        ask = partial(kafka.committed_offsets, admin, settings.group, settings.topic)
        while left and time.monotonic() < end:
            await asyncio.sleep(LOOK_EVERY_S)
            now = await retrying("reading committed offsets", ask, tries=COMMAND_ATTEMPTS)
            left = {number for number in left if now.get(number, 0) == before[number]}
    return sorted(left)
