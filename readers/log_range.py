"""A partition's part of the log that is looked at: its offsets, and which of them hold a record."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

import numpy as np
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from runtime.batch_reader import Limits
from runtime.errors import TallyError
from runtime.faults import kafka_fault
from runtime.kafka import LogBounds
from runtime.log_reader import read_range
from schemas.event_time import iso_ms, to_epoch_ms

_NEAR = 500
"""Offsets so close to one another are read together; for farther ones a new fetch is cheaper."""
_PATIENCE_MS = 4_000


class LogRange(NamedTuple):
    """Offsets from `first` up to, not including, `end`."""

    first: int
    end: int

    def pieces(self, size: int) -> Iterator["LogRange"]:
        """The same in ranges of at most `size` offsets."""
        for first in range(self.first, self.end, size):
            yield LogRange(first, min(first + size, self.end))

    def cut(self, first: int, end: int) -> "LogRange":
        """What of it lies in another range; perhaps nothing."""
        low = min(max(self.first, first), self.end)
        return LogRange(low, max(low, min(self.end, end)))

    def __len__(self) -> int:
        return self.end - self.first


async def range_of_times(
    log: AIOKafkaConsumer, place: TopicPartition, bounds: LogBounds, since: datetime | None, until: datetime | None
) -> LogRange:
    """The records appended from `since` up to, not including, `until`; None for no bound.

    Raises TallyError when the range reaches into what retention has removed: nobody knows its times any more. Raises
    Unavailable when no broker answers.
    """

    async def first_at(moment: datetime) -> int:
        found = (await log.offsets_for_times({place: to_epoch_ms(moment)}))[place]
        first = bounds.end if found is None else min(int(found.offset), bounds.end)
        if 0 < first == bounds.start:
            raise TallyError(
                f"partition {place.partition} begins at offset {first} by now, after {iso_ms(moment)} or right there: "
                "name a later time, or none"
            )
        return first

    try:
        first = 0 if since is None else await first_at(since)
        return LogRange(first, max(first, bounds.end if until is None else await first_at(until)))
    except KafkaError as error:
        raise kafka_fault(error, "asking for offsets by time") from error


async def offsets_with_records(
    log: AIOKafkaConsumer, place: TopicPartition, offsets: Sequence[int], limits: Limits
) -> set[int]:
    """Which of these offsets (ascending) hold a record, and no transaction marker, by reading the log there.

    Every offset of a batch that cannot be read does.
    """
    log.assign([place])
    wanted = np.array(offsets, np.int64)
    found: set[int] = set()
    for first, last in _clusters(offsets):
        async for records in read_range(log, place, first, last + 1, limits, patience_ms=_PATIENCE_MS):
            found.update(np.intersect1d(wanted, records.offsets).tolist())
    return found


def _clusters(offsets: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Ascending offsets as ranges (first, last) of such as lie close together."""
    first = last = None
    for offset in offsets:
        if first is None or last is None:
            first = last = offset
        elif offset - last <= _NEAR:
            last = offset
        else:
            yield first, last
            first = last = offset
    if first is not None and last is not None:
        yield first, last
