"""Range of a partition's log: its offsets, and their content."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import pairwise
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
"""Largest gap between offsets that are read together; across a larger one a new fetch is cheaper."""


class LogRange(NamedTuple):
    """Offsets from `first` up to, excluding, `end`."""

    first: int
    end: int

    def pieces(self, size: int) -> Iterator["LogRange"]:
        """Split the range into pieces of at most `size` offsets."""
        for first in range(self.first, self.end, size):
            yield LogRange(first, min(first + size, self.end))

    def intersection(self, first: int, end: int) -> "LogRange":
        """Return the intersection with another range, which may be empty."""
        low = min(max(self.first, first), self.end)
        return LogRange(low, max(low, min(self.end, end)))

    def __len__(self) -> int:
        return self.end - self.first


async def range_of_times(
    log: AIOKafkaConsumer, place: TopicPartition, bounds: LogBounds, since: datetime | None, until: datetime | None
) -> LogRange:
    """Return the range of records appended from `since` up to, excluding, `until`; None for no bound.

    Raises TallyError when the range reaches into removed records, whose times are unknown. Raises Unavailable when no
    broker answers.
    """

    async def first_at(moment: datetime) -> int:
        found = (await log.offsets_for_times({place: to_epoch_ms(moment)}))[place]
        first = bounds.end if found is None else min(int(found.offset), bounds.end)
        if 0 < first == bounds.start:
            raise TallyError(
                f"partition {place.partition} begins at offset {first} now, at or after {iso_ms(moment)}: use a later "
                "time, or none"
            )
        return first

    try:
        first = 0 if since is None else await first_at(since)
        return LogRange(first, max(first, bounds.end if until is None else await first_at(until)))
    except KafkaError as error:
        raise kafka_fault(error, "asking for offsets by time") from error


class LogContents(NamedTuple):
    """Offsets of records and holes. All other offsets are of transaction markers or aborted records."""

    records: set[int]
    holes: set[int]
    """Offsets without content, from which compaction, or a person, has removed a record."""


async def log_contents(settings: Settings, place: TopicPartition, offsets: Sequence[int]) -> LogContents:
    """Classify the content of offsets (at least one, ascending) by the headers of the log's batches.

    A batch from which compaction has removed records counts as a hole at each offset, because its remaining records
    are not read. Raises Unavailable and Fatal.
    """
    found = LogContents(set(), set())
    async with batch_reader(settings) as committed, batch_reader(settings, everything=True) as everything:
        if not whole_batches.is_installed():
            raise TallyError("this version of aiokafka does not expose transaction markers: install 0.14")
        for cluster in _clusters(offsets):
            first, last, missing = cluster[0], cluster[-1], set(cluster)
            visible = {each.first async for each in batches_in(committed, place, first, last + 1)}
            async for batch in batches_in(everything, place, first, last + 1):
                inside = missing.intersection(range(max(first, batch.first), min(last + 1, batch.end)))
                missing -= inside
                if not batch.is_control and batch.first in visible:
                    (found.records if batch.is_whole else found.holes).update(inside)
            found.holes.update(missing)
    return found


def _clusters(offsets: Sequence[int]) -> Iterator[Sequence[int]]:
    """Split ascending offsets at gaps larger than _MAX_GAP."""
    breaks = [number for number in range(1, len(offsets)) if offsets[number] - offsets[number - 1] > _MAX_GAP]
    for begin, end in pairwise([0, *breaks, len(offsets)]):
        yield offsets[begin:end]
