"""Data of the pipeline: batches of records, their validation, and their outcomes.

Offsets travel with the data: a batch knows the offsets to commit once all of it is stored.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from msgspec import Struct

from consumers.events import Events, LineFlags
from consumers.record_headers import RecordHeaders
from consumers.records import PlainRecord, Records
from runtime import metrics
from runtime.kafka import Record
from schemas.dedup import DuplicateReason
from schemas.rejection import Rejection


class Range(NamedTuple):
    """Range of records of one partition that were read and are not committed yet."""

    partition: int
    first_offset: int
    next_offset: int
    first_append_ms: int


class Slice(NamedTuple):
    """Records of one partition of a batch, in offset order; at least one."""

    partition: int
    records: Records

    @property
    def first_offset(self) -> int:
        """Lowest offset."""
        return int(self.records.offsets[0])

    @property
    def first_append_ms(self) -> int:
        """Append time of the record there, in ms since 1970."""
        return int(self.records.append_ms[0])

    @property
    def next_offset(self) -> int:
        """Offset to commit once these records have their outcomes: the next one to read, as is Kafka's convention."""
        return int(self.records.offsets[-1]) + 1


@dataclass(frozen=True)
class Batch:
    """Records of several partitions that go through the pipeline together."""

    records: Records

    def __len__(self) -> int:
        return len(self.records)

    @cached_property
    def slices(self) -> tuple[Slice, ...]:
        """Records of the batch by partition."""
        partitions = self.records.partitions
        firsts = np.flatnonzero(np.diff(partitions.astype(np.int64), prepend=-1)).tolist()
        return tuple(
            Slice(int(partitions[first]), self.records[first:end])
            for first, end in pairwise([*firsts, len(self.records)])
        )

    @property
    def ranges(self) -> tuple[Range, ...]:
        """Range of each slice."""
        return tuple(
            Range(part.partition, part.first_offset, part.next_offset, part.first_append_ms) for part in self.slices
        )

    def before(self, ends: Mapping[int, int]) -> "Batch":
        """Return the part below these offsets (by partition; all of a partition without one)."""
        keep = np.ones(len(self), np.bool_)
        for partition, end in ends.items():
            keep &= (self.records.partitions != partition) | (self.records.offsets < end)
        return self if keep.all() else Batch(self.records[keep])

    @property
    def halves(self) -> "tuple[Batch, Batch]":
        """First and second half of the batch."""
        middle = len(self) // 2
        return Batch(self.records[:middle]), Batch(self.records[middle:])

    def records_of(self, events: Events) -> Iterator[PlainRecord]:
        """Yield the record of each of these events of the batch, in order."""
        for part in self.slices:
            first, end = events.lines_of(part.partition)
            lines = np.searchsorted(part.records.offsets, events.offsets[first:end]).tolist()
            yield from map(part.records.at, lines)

    def record(self, partition: int, offset: int) -> PlainRecord:
        """Return the record at a place of this batch."""
        (line,) = np.flatnonzero((self.records.partitions == partition) & (self.records.offsets == offset))
        return self.records.at(int(line))


class RejectedRecord(Struct):
    """Rejected record, kept whole for its dead letter."""

    partition: int
    record: Record
    namespace: str
    interaction_id: str
    rejection: Rejection
    user_id: str | None = None
    execution_id: str | None = None

    @property
    def offset(self) -> int:
        """Offset of the record."""
        return self.record.offset


class Move(Struct):
    """Misplaced event with its record, kept whole until a copy of it is on the partition of its key."""

    partition: int
    record: PlainRecord
    headers: RecordHeaders
    interaction_id: str
    has_id: bool
    """Whether the record's value has the id; else it was derived from the record's place."""
    key: bytes
    """Key that the record should have."""
    home: int
    """Partition of that key."""
    user_id: str | None
    execution_id: str | None
    copy_offset: int = -1
    """Offset of the copy on that partition; -1 until it is written."""

    @property
    def offset(self) -> int:
        """Offset of the record."""
        return self.record.offset


@dataclass(frozen=True)
class Duplicates:
    """Duplicates, with the id of each one's owner and the reason."""

    events: Events
    owners: Sequence[str]
    reasons: Sequence[DuplicateReason]

    def __len__(self) -> int:
        return len(self.events)


@dataclass
class ValidatedBatch:
    """Batch after validation: valid events, and rejections."""

    events: Events
    done: LineFlags
    """Events that have a row already: they claim their keys, and nothing is decided about them."""
    rejected: list[RejectedRecord]
    moves: list[Move] = field(default_factory=list)
    """Misplaced events that were taken out of `events`."""
    recorded: int = 0
    """Number of records in one of the tables already: events that are `done`, and rejections that were dropped."""
    withheld: list[RejectedRecord] = field(default_factory=list)
    """Valid events of a namespace whose reject fuse has tripped: they are rejected, and claim nothing."""
    held: dict[int, int] = field(default_factory=dict)
    """Partition -> offset of its first record of a newer schema: that one and all later ones stay unread."""
    unprocessable: Rejection | None = None
    """Rejection of the batch's one record, when that cannot be validated."""


class Verdicts(NamedTuple):
    """Outcomes of a batch's valid events."""

    stored: Events
    duplicates: Duplicates
    done: Events
    """Events that have a row already."""


class DecidedBatch(NamedTuple):
    """Decided batch, until it is committed: its events have their verdicts, its claims are taken."""

    ranges: tuple[Range, ...]
    stored: int
    duplicates: int
    recorded: int
    """Records that were in one of the tables before."""
    era: int
    """Era of the decision, which is void once the table has refused an earlier event: that one then owns nothing."""
    unprocessable: Rejection | None
    """Rejection of the batch's one record, when that cannot be validated."""


@dataclass
class Counts:
    """Counts of a worker's records and inserts since it started."""

    stored: int = 0
    duplicates: int = 0
    rejected: int = 0
    already_recorded: int = 0
    """Records found stored after a crash, and skipped."""
    moved: int = 0
    """Misplaced events, copied to the partition of their key."""
    inserts: int = 0
    """Groups of batches that were stored together."""

    def add(
        self, *, stored: int = 0, duplicates: int = 0, rejected: int = 0, already_recorded: int = 0, moved: int = 0
    ) -> None:
        """Count more, here and for `/metrics`."""
        self.stored += stored
        self.duplicates += duplicates
        self.rejected += rejected
        self.already_recorded += already_recorded
        self.moved += moved
        metrics.EVENTS.labels("stored").inc(stored)
        metrics.EVENTS.labels("duplicate").inc(duplicates)
        metrics.EVENTS.labels("rejected").inc(rejected)
        metrics.EVENTS.labels("already_recorded").inc(already_recorded)
        metrics.EVENTS.labels("moved").inc(moved)

    @property
    def total(self) -> int:
        """Number of all records that have an outcome."""
        return self.stored + self.duplicates + self.rejected + self.moved + self.already_recorded

    def as_text(self) -> str:
        """Format the counts as one line."""
        return (
            f"{self.stored} stored, {self.duplicates} duplicates, {self.rejected} rejected, {self.moved} moved, "
            f"{self.already_recorded} already recorded, in {self.inserts} inserts"
        )
