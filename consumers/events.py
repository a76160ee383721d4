"""Events of a batch, as columns: one line each, the order being that of their partitions and offsets."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from consumers.claims.owners import (
    Claim,
    OwnerRows,
    append_ms_of,
    claim_of,
    event_ms_of,
    id_of,
    key_of,
    offsets_of,
    raw_ids_of,
)
from kernels.boundary import Bytes, Columns, read_text, select
from schemas.letter import Origin

Flags = npt.NDArray[np.bool_]
Lines = slice | npt.NDArray[np.int64] | Flags


class RecordHeaders(NamedTuple):
    """Decoded headers of a record."""

    namespace: str
    foreign: bool
    """No Tally producer wrote the record."""
    derived_id: bool
    idempotency_key: str | None
    origin_ms: int | None
    """First append time of a replayed dead letter."""
    deduplicate: bool = True
    """False: its sender wants it stored whatever it repeats, and nothing to be a duplicate of it."""
    traceparent: bytes | None = None
    """The trace it is part of."""
    moved_from: Origin | None = None
    """Place of the original record, for the copy of a misplaced event."""


def flags_of_heads(
    heads: Sequence[RecordHeaders], head_of: npt.NDArray[np.int32], is_so: Callable[[RecordHeaders], bool]
) -> Flags:
    """By line, whether something is so of its head."""
    return np.array([is_so(head) for head in heads], np.bool_)[head_of]


class Event(NamedTuple):
    """One event by itself, for what happens rarely. Times are milliseconds since 1970."""

    partition: int
    offset: int
    append_ms: int
    event_ms: int
    namespace: str
    interaction_id: str
    may_repeat_id: bool
    replayed: bool
    key: bytes | None
    idempotency_key: str | None
    feature_id: str
    user_id: str | None
    session_id: str | None
    execution_id: str | None
    moved_from: Origin | None

    @property
    def claims(self) -> list[Claim]:
        """Its claim, if it makes one."""
        if self.key is None:
            return []
        return [Claim(self.key, self.offset, self.event_ms, self.append_ms, self.interaction_id)]


class Places(NamedTuple):
    """Places and ids of events, from which the token of their insert is made."""

    partitions: npt.NDArray[np.uint32]
    offsets: npt.NDArray[np.int64]
    raw_ids: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Events:
    """Some valid events of a batch."""

    text: Bytes
    """The values of the batch's records; spans are places in it."""
    columns: Columns
    partitions: npt.NDArray[np.uint32]
    rows: OwnerRows
    """Keys, offsets, times and ids, as claims hold them."""
    heads: list[RecordHeaders]
    head_of: npt.NDArray[np.int32]
    keyed: Flags
    """Whether it may be a duplicate of another: only then has its row a key."""
    may_repeat_id: Flags
    """The id came from outside (an import, a foreign producer), so another record may carry it too."""
    homes: npt.NDArray[np.uint32]
    """The partition that each belongs on, by its key."""

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, lines: Lines) -> "Events":
        """Select lines: by a slice, by numbers in order, or by a flag for each."""
        if not isinstance(lines, slice) and lines.dtype == np.bool_:
            if lines.all():
                return self
            lines = np.flatnonzero(lines)
        return Events(
            self.text,
            select(self.columns, lines),
            self.partitions[lines],
            self.rows[lines],
            self.heads,
            self.head_of[lines],
            self.keyed[lines],
            self.may_repeat_id[lines],
            self.homes[lines],
        )

    def lines_of(self, partition: int) -> tuple[int, int]:
        """Where the events of a partition begin, and where they end; they lie one after the other."""
        lines = np.flatnonzero(self.partitions == partition)
        return (int(lines[0]), int(lines[-1]) + 1) if len(lines) else (0, 0)

    def id_at(self, line: int) -> str:
        """An event's id."""
        return id_of(self.rows[line])

    def namespace_at(self, line: int) -> str:
        """An event's namespace."""
        namespace: str = self.heads[self.head_of[line]].namespace
        return namespace

    @property
    def offsets(self) -> npt.NDArray[np.int64]:
        """Their offsets."""
        return offsets_of(self.rows)

    @property
    def claims(self) -> list[Claim]:
        """Claims of these events."""
        return [claim_of(row) for row in self.rows[self.keyed]]

    @property
    def misplaced(self) -> Flags:
        """Which lie on another partition than they belong on."""
        misplaced: Flags = self.homes != self.partitions
        return misplaced

    @property
    def places(self) -> Places:
        """Where they lie, copied."""
        return Places(self.partitions.copy(), self.offsets.copy(), raw_ids_of(self.rows))

    @property
    def replayed(self) -> Flags:
        """Which are dead letters put on the topic again: `event_ms` is then of its first time, if it names none."""
        return flags_of_heads(self.heads, self.head_of, lambda head: head.origin_ms is not None)

    def at(self, line: int) -> Event:
        """One by itself."""
        row, head = self.rows[line], self.heads[self.head_of[line]]
        return Event(
            int(self.partitions[line]),
            int(offsets_of(row)),
            int(append_ms_of(row)),
            int(event_ms_of(row)),
            head.namespace,
            id_of(row),
            bool(self.may_repeat_id[line]),
            head.origin_ms is not None,
            key_of(row) if self.keyed[line] else None,
            head.idempotency_key,
            self.text_of("feature_id", line) or "",
            self.text_of("user_id", line),
            self.text_of("session_id", line),
            self.text_of("execution_id", line),
            head.moved_from,
        )

    def __iter__(self) -> Iterator[Event]:
        return map(self.at, range(len(self)))

    def text_of(self, field: str, line: int) -> str | None:
        """The text in a field of an event."""
        return read_text(self.text, self.columns, field, line)
