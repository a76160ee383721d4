"""Data of the pipeline: batches of records, their validation, and their outcomes.

Offsets travel with the data: a batch knows the offsets to commit once all of it is stored.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from consumers.events import Events, Flags, RecordHeaders
from consumers.records import PlainRecord, Records
from runtime import metrics
from runtime.kafka import Record
from schemas.dedup import DuplicateReason
from schemas.rejection import Rejection


class Range(NamedTuple):
    """Where records of one partition lie that were read and are not committed yet."""

    partition: int
    first_offset: int
    next_offset: int
    first_append_ms: int


class Slice(NamedTuple):
    """The records of one partition, in offset order. In a batch never empty."""

    partition: int
    records: Records

    @property
    def first_offset(self) -> int:
        """The lowest offset."""
        return int(self.records.offsets[0])

    @property
    def first_append_ms(self) -> int:
        """When the record there was appended, in ms since 1970."""
        return int(self.records.append_ms[0])

    @property
    def next_offset(self) -> int:
        """The offset to commit when these are done: Kafka's convention is the next one to read."""
        return int(self.records.offsets[-1]) + 1


@dataclass(frozen=True)
class Batch:
    """Records of several partitions that go through the pipeline together."""

    records: Records

    @property
    def partitions(self) -> npt.NDArray[np.uint32]:
        """The partition of each record."""
        return self.records.partitions

    def __len__(self) -> int:
        return len(self.records)

    @cached_property
    def slices(self) -> tuple[Slice, ...]:
        """The same, partition by partition."""
        firsts = np.flatnonzero(np.diff(self.partitions.astype(np.int64), prepend=-1)).tolist()
        return tuple(
            Slice(int(self.partitions[first]), self.records[first:end])
            for first, end in pairwise([*firsts, len(self.records)])
        )

    @property
    def ranges(self) -> tuple[Range, ...]:
        """Where they lie."""
        return tuple(
            Range(part.partition, part.first_offset, part.next_offset, part.first_append_ms) for part in self.slices
        )

    def before(self, ends: Mapping[int, int]) -> "Batch":
        """The part below these offsets (by partition; all of a partition without one)."""
        keep = np.ones(len(self), np.bool_)
        for partition, end in ends.items():
            keep &= (self.partitions != partition) | (self.records.offsets < end)
        return self if keep.all() else Batch(self.records[keep])

    @property
    def halves(self) -> "tuple[Batch, Batch]":
        """The same in two, in order."""
        middle = len(self) // 2
        return Batch(self.records[:middle]), Batch(self.records[middle:])

    def record(self, partition: int, offset: int) -> PlainRecord:
        """The record at a place of this batch."""
        (line,) = np.flatnonzero((self.partitions == partition) & (self.records.offsets == offset))
        return self.records.at(int(line))


class Rejected(Struct):
    """A record that can never be valid, kept whole for its dead letter."""

    partition: int
    record: Record
    namespace: str
    interaction_id: str
    rejection: Rejection
    user_id: str | None = None
    execution_id: str | None = None

    @property
    def offset(self) -> int:
        """The record's offset."""
        return self.record.offset


class Move(Struct):
    """A misplaced event: its record, kept whole until a copy of it is on the partition that it belongs on."""

    partition: int
    record: PlainRecord
    head: RecordHeaders
    interaction_id: str
    has_id: bool
    """Whether the record's value names the id; else it was derived from the record's place."""
    key: bytes
    """The key that it should have."""
    home: int
    """The partition that it belongs on."""
    user_id: str | None
    execution_id: str | None
    copy_offset: int = -1
    """Offset of the copy on that partition; -1 until it is written."""

    @property
    def offset(self) -> int:
        """The record's offset."""
        return self.record.offset


@dataclass(frozen=True)
class Duplicates:
    """Events that are not stored; for each the id of the stored one that it repeats, and why."""

    events: Events
    owners: Sequence[str]
    reasons: Sequence[DuplicateReason]

    def __len__(self) -> int:
        return len(self.events)


@dataclass
class ValidatedBatch:
    """A batch after validation: valid events, and rejections."""

    events: Events
    done: Flags
    """Which events have a row already: they claim their keys, and nothing is decided about them."""
    rejected: list[Rejected]
    moves: list[Move] = field(default_factory=list)
    """Valid events that are misplaced, once they are set apart from `events`."""
    recorded: int = 0
    """How many records were in one of the tables already: events that are `done`, and rejections that are gone."""
    withheld: list[Rejected] = field(default_factory=list)
    """Valid events of a namespace whose reject fuse has tripped: they are rejected, and claim nothing."""
    held: dict[int, int] = field(default_factory=dict)
    """Partition -> first record of a newer schema: it and what is after it are neither good nor bad, but unread."""
    unprocessable: Rejection | None = None
    """Set for a single record that cannot be validated: why it is rejected unseen."""


class Verdicts(NamedTuple):
    """Outcomes of a batch's valid events."""

    stored: Events
    duplicates: Duplicates
    done: Events
    """Events that have a row already."""


class Decided(NamedTuple):
    """A decided batch, until it is committed: its events have their outcomes, its claims are taken."""

    ranges: tuple[Range, ...]
    stored: int
    duplicates: int
    recorded: int
    """Records that were recorded before."""
    era: int
    """The era of the decision: it is void once the table has refused an earlier event, which then owns nothing."""
    unprocessable: Rejection | None
    """As in `ValidatedBatch`."""


@dataclass
class Counts:
    """Counts of a worker since it started."""

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
        """All records that went through."""
        return self.stored + self.duplicates + self.rejected + self.moved + self.already_recorded

    def as_text(self) -> str:
        """One line for people."""
        return (
            f"{self.stored} stored, {self.duplicates} duplicates, {self.rejected} rejected, {self.moved} moved, "
            f"{self.already_recorded} already recorded, in {self.inserts} inserts"
        )
