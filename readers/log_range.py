"""A partition's part of the log that is looked at: its offsets, and which of them hold a record."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from runtime import whole_batches
from runtime.errors import TallyError
from runtime.faults.kafka import kafka_fault
from runtime.kafka import LogBounds
from runtime.log_batches import batch_reader, batches_in
from runtime.settings import Settings
from schemas.event_time import iso_ms, to_epoch_ms

_MAX_GAP = 500
"""Offsets so close to one another are read together; for farther ones a new fetch is cheaper."""


class LogRange(NamedTuple):
    """Offsets from `first` up to, not including, `end`."""

    first: int
    end: int

    def pieces(self, size: int) -> Iterator["LogRange"]:
        """The same in ranges of at most `size` offsets."""
        for first in range(self.first, self.end, size):
            yield LogRange(first, min(first + size, self.end))

    def intersection(self, first: int, end: int) -> "LogRange":
        """The intersection with another range; perhaps empty."""
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


class LogContents(NamedTuple):
    """Offsets of the log by what lies there. At all others there is a transaction's marker, or what was aborted."""

    records: set[int]
    holes: set[int]
    """Nothing lies there: compaction, or somebody, has removed a record."""


async def log_contents(settings: Settings, place: TopicPartition, offsets: Sequence[int]) -> LogContents:
    """Tell what lies at these offsets (ascending), by the headers of the log's batches.

    A batch that compaction has thinned out counts as a hole at each offset: which of its records are left is not
    looked up. Raises Unavailable and Fatal.
    """
    found = LogContents(set(), set())
    async with batch_reader(settings) as committed, batch_reader(settings, everything=True) as everything:
        if not whole_batches.is_installed():
            raise TallyError("this version of aiokafka does not show markers of transactions: install 0.14")
        for first, last in _clusters(offsets):
            visible = {each.first async for each in batches_in(committed, place, first, last + 1)}
            missing = set(offsets[bisect_left(offsets, first) : bisect_right(offsets, last)])
            async for batch in batches_in(everything, place, first, last + 1):
                inside = missing.intersection(range(max(first, batch.first), min(last + 1, batch.end)))
                missing -= inside
                if not batch.is_control and batch.first in visible:
                    (found.records if batch.is_whole else found.holes).update(inside)
            found.holes.update(missing)
    return found


def _clusters(offsets: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Ascending offsets as ranges (first, last) of such as lie close together."""
    first = last = None
    for offset in offsets:
        if first is None or last is None:
            first = last = offset
        elif offset - last <= _MAX_GAP:
            last = offset
        else:
            yield first, last
            first = last = offset
    if first is not None and last is not None:
        yield first, last
