"""Stuck partitions: records wait, and for TALLY_STUCK_MS nothing was committed.

The log's end and the committed offset are compared from outside the worker. So every cause is found: a record of a
newer schema, a worker that crashes at the same record, one that hangs or retries, and no worker at all.
"""

import asyncio
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from prometheus_client import Gauge

from runtime.errors import Degraded, TallyError
from runtime.log_batches import LogBatch, find_first_waiting
from runtime.metrics import STUCK_OFFSET, STUCK_SECONDS
from runtime.settings import Settings

LOG_READ_TIMEOUT_S = 5.0
"""Timeout of reading the log. After it the committed offset counts as the offset of the first waiting record."""
MAX_NAMED = 3


class StuckPartition(NamedTuple):
    """Partition whose records wait while nothing is committed."""

    topic: str
    partition: int
    offset: int
    """Offset of the first record that waits."""
    seconds: float
    """Seconds since the last commit, or since the record was appended."""

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition} has been stuck at offset {self.offset} for {self.seconds:.0f} s"


def describe(stuck: Iterable[StuckPartition]) -> str:
    """Describe the first MAX_NAMED partitions in one line."""
    named = list(map(str, stuck))
    more = len(named) - MAX_NAMED
    return "; ".join([*named[:MAX_NAMED], *([f"and {more} more"] if more > 0 else [])])


@dataclass
class _PartitionProgress:
    """Committed offset of one partition, and the time of its last change while records wait."""

    committed: int
    passed: int
    """Offset at or past the committed one, below which no record waits."""
    end: int
    since: float
    waits_at: int | None = None
    """Offset of the first waiting record, once the log has been read."""


class StuckPartitionTracker:
    """Tracker of committed offsets; `stuck` lists the stuck partitions."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._progress: dict[int, _PartitionProgress] = {}

    async def note(self, ends: Mapping[int, int], committed: Mapping[int, int]) -> None:
        """Update the log ends and committed offsets of these partitions; forget all others.

        A committed offset may be followed by transaction markers only. So the log is read before a partition counts as
        stuck.
        """
        for gone in self._progress.keys() - ends.keys():
            del self._progress[gone]
            self._remove(STUCK_SECONDS, gone)
            self._remove(STUCK_OFFSET, gone)
        for partition, end in ends.items():
            self._note(partition, end, committed.get(partition, 0))
        suspects = {number: each for number, each in self._progress.items() if self._is_suspect(each)}
        if suspects:
            await self._find_waiting(suspects)
        self._publish()

    @property
    def passed(self) -> dict[int, int]:
        """Committed offset by partition, or a later one when only transaction markers are between."""
        return {number: each.passed for number, each in self._progress.items()}

    @property
    def stuck(self) -> list[StuckPartition]:
        """Partitions that are stuck now."""
        topic, now = self._settings.topic, time.monotonic()
        return [
            StuckPartition(topic, number, each.waits_at, now - each.since)
            for number, each in sorted(self._progress.items())
            if each.waits_at is not None
        ]

    async def check(self) -> None:
        """Raise Degraded when a partition is stuck."""
        if stuck := self.stuck:
            raise Degraded(describe(stuck))

    def _note(self, partition: int, end: int, committed: int) -> None:
        before = self._progress.get(partition)
        if before is None or before.committed != committed:
            passed = before.passed if before is not None and before.committed < committed else 0
            before = self._progress[partition] = _PartitionProgress(
                committed, max(committed, passed), end, time.monotonic()
            )
        before.end = end
        if end <= before.passed:
            before.since, before.waits_at = time.monotonic(), None

    def _is_suspect(self, standing: _PartitionProgress) -> bool:
        is_examined = standing.waits_at is not None or standing.end <= standing.passed
        return not is_examined and 1000 * (time.monotonic() - standing.since) >= self._settings.stuck_ms

    async def _find_waiting(self, suspects: Mapping[int, _PartitionProgress]) -> None:
        asked = {number: (each.passed, each.end) for number, each in suspects.items()}
        found = dict[int, LogBatch | None]()
        with suppress(TallyError, TimeoutError):
            async with asyncio.timeout(LOG_READ_TIMEOUT_S):
                found = await find_first_waiting(self._settings, asked)
        for number, standing in suspects.items():
            batch = found.get(number)
            if number in found and batch is None:
                standing.passed, standing.since = standing.end, time.monotonic()
            else:
                standing.waits_at = standing.passed if batch is None else batch.first

    def _publish(self) -> None:
        topic, stuck = self._settings.topic, {each.partition: each for each in self.stuck}
        for number in self._progress:
            if number in stuck:
                STUCK_SECONDS.labels(topic, number).set(stuck[number].seconds)
                STUCK_OFFSET.labels(topic, number).set(stuck[number].offset)
            else:
                STUCK_SECONDS.labels(topic, number).set(0)
                self._remove(STUCK_OFFSET, number)

    def _remove(self, metric: Gauge, partition: int) -> None:
        with suppress(KeyError):
            metric.remove(self._settings.topic, partition)
