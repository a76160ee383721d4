"""What moves through the pipeline: a batch of records, what they are judged to be, and what becomes of them.

Offsets travel with the data: a batch knows the offsets to commit once all of it is stored.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from msgspec import Struct

from runtime.kafka import Record
from schemas.dedup import DuplicateReason
from schemas.rejection import Rejection
from schemas.wire import WireEvent


class Slice(NamedTuple):
    """The records of one partition, in offset order. In a batch never empty."""

    partition: int
    records: Sequence[Record]

    @property
    def first_offset(self) -> int:
        """The lowest offset."""
        return self.records[0].offset

    @property
    def next_offset(self) -> int:
        """The offset to commit when these are done: Kafka's convention is the next one to read."""
        return self.records[-1].offset + 1

    def before(self, offset: int) -> "Slice":
        """Its records below an offset; there may be none."""
        return self._replace(records=[record for record in self.records if record.offset < offset])


class Batch(NamedTuple):
    """Records of several partitions that go through the pipeline together."""

    slices: tuple[Slice, ...]

    @property
    def next_offsets(self) -> dict[int, int]:
        """What to commit, per partition."""
        return {part.partition: part.next_offset for part in self.slices}

    def before(self, ends: Mapping[int, int]) -> "Batch":
        """What of it lies below these offsets (per partition; all of a partition that has none)."""
        cut = (part.before(ends[part.partition]) if part.partition in ends else part for part in self.slices)
        return Batch(tuple(part for part in cut if part.records))

    def record(self, partition: int, offset: int) -> Record:
        """The record at a place of this batch."""
        (part,) = (part for part in self.slices if part.partition == partition)
        return next(record for record in part.records if record.offset == offset)


class Event(Struct, gc=False):
    """A valid event at its place in the log. Times are milliseconds since 1970."""

    partition: int
    offset: int
    append_ms: int
    event_ms: int
    namespace: str
    interaction_id: str
    may_repeat_id: bool
    """The id came from outside (an import, a foreign producer), so another record may carry it too."""
    wire: WireEvent
    key: bytes | None
    """What it may be a duplicate by; None for an event that can be nobody's."""
    idempotency_key: str | None = None
    replayed: bool = False
    """A dead letter put on the topic again: `event_ms` is then of its first time, if it names none itself."""


class Rejected(Struct):
    """A record that can never be valid, kept whole for its dead letter."""

    partition: int
    record: Record
    namespace: str
    interaction_id: str
    rejection: Rejection

    @property
    def offset(self) -> int:
        """The record's offset."""
        return self.record.offset


class Duplicate(NamedTuple):
    """An event that is not stored, and the id of the stored one that it repeats."""

    event: Event
    duplicate_of: str
    reason: DuplicateReason


@dataclass
class Judged:
    """A batch after validation: valid events in offset order per partition, and rejections."""

    events: list[Event] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    stored: list[Event] = field(default_factory=list)
    """Events that have a row already: they claim their keys, and are done."""
    misplaced: int = 0
    """Valid events of foreign producers on another partition than their key's: deduplicated only there."""
    held: dict[int, int] = field(default_factory=dict)
    """Partition -> first record of a newer schema: it and what is behind it are neither good nor bad, but unread."""


@dataclass
class Verdicts:
    """What becomes of a batch's valid events."""

    stored: list[Event] = field(default_factory=list)
    duplicates: list[Duplicate] = field(default_factory=list)


class Decided(NamedTuple):
    """A batch whose events all have their verdicts, and whose claims are taken."""

    batch: Batch
    judged: Judged
    verdicts: Verdicts
    era: int
    """It is void once an event before it was refused by the table: then it is no owner of anything."""


@dataclass
class Counts:
    """What a worker has done since it started."""

    stored: int = 0
    duplicates: int = 0
    rejected: int = 0
    already_recorded: int = 0
    """Records found stored after a crash, and skipped."""
    misplaced: int = 0
    batches: int = 0

    @property
    def total(self) -> int:
        """All records that went through."""
        return self.stored + self.duplicates + self.rejected + self.already_recorded

    def as_text(self) -> str:
        """One line for people."""
        return (
            f"{self.stored} stored, {self.duplicates} duplicates, {self.rejected} rejected, "
            f"{self.already_recorded} already recorded, in {self.batches} batches"
        )
