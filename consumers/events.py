"""Events of a batch as columns: one line per event, in the order of partitions and offsets."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from consumers.claims.owners import OwnerRows, append_ms_of, event_ms_of, id_of, key_of, offsets_of, raw_ids_of
from consumers.record_headers import RecordHeaders
from kernels.boundary import Bytes, Columns, read_text, select

LineFlags = npt.NDArray[np.bool_]
LineSelection = slice | npt.NDArray[np.int64] | LineFlags


def flags_by_headers(
    headers: Sequence[RecordHeaders], headers_of: npt.NDArray[np.int32], test: Callable[[RecordHeaders], bool]
) -> LineFlags:
    """Return for each line whether its headers pass a test, which is applied once to each distinct headers."""
    return np.array([test(each) for each in headers], np.bool_)[headers_of]


class Event(NamedTuple):
    """Single event, for rare cases. Times are milliseconds since 1970."""

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


class Places(NamedTuple):
    """Places and ids of events: the input of their insert's token."""

    partitions: npt.NDArray[np.uint32]
    offsets: npt.NDArray[np.int64]
    raw_ids: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Events:
    """Valid events of a batch, or a selection of them."""

    text: Bytes
    """Values of the batch's records, concatenated; spans are places in it."""
    columns: Columns
    partitions: npt.NDArray[np.uint32]
    rows: OwnerRows
    """Keys, offsets, times and ids, as claims hold them."""
    headers: list[RecordHeaders]
    """Distinct headers of the batch's records."""
    headers_of: npt.NDArray[np.int32]
    """Index of each event's headers."""
    keyed: LineFlags
    """Whether the event has a key, and so may be a duplicate or an owner."""
    may_repeat_id: LineFlags
    """Whether the id came from outside (an import, a foreign producer), so that another record may have it, too."""
    homes: npt.NDArray[np.uint32]
    """Partition that each event belongs on, by its key."""

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, lines: LineSelection) -> "Events":
        """Select lines: by a slice, by numbers in order, or by flags."""
        if not isinstance(lines, slice) and lines.dtype == np.bool_:
            if lines.all():
                return self
            lines = np.flatnonzero(lines)
        return Events(
            self.text,
            select(self.columns, lines),
            self.partitions[lines],
            self.rows[lines],
            self.headers,
            self.headers_of[lines],
            self.keyed[lines],
            self.may_repeat_id[lines],
            self.homes[lines],
        )

    def lines_of(self, partition: int) -> tuple[int, int]:
        """Return the first line of a partition's events and the one after the last; (0, 0) if there are none."""
        lines = np.flatnonzero(self.partitions == partition)
        return (int(lines[0]), int(lines[-1]) + 1) if len(lines) else (0, 0)

    def id_at(self, line: int) -> str:
        """Return an event's id."""
        return id_of(self.rows[line])

    def namespace_at(self, line: int) -> str:
        """Return an event's namespace."""
        namespace: str = self.headers[self.headers_of[line]].namespace
        return namespace

    @property
    def offsets(self) -> npt.NDArray[np.int64]:
        """Offset of each event."""
        return offsets_of(self.rows)

    @property
    def misplaced(self) -> LineFlags:
        """Flags of events on another partition than their key's."""
        misplaced: LineFlags = self.homes != self.partitions
        return misplaced

    @property
    def places(self) -> Places:
        """Places and ids of the events, copied."""
        return Places(self.partitions.copy(), self.offsets.copy(), raw_ids_of(self.rows))

    @property
    def replayed(self) -> LineFlags:
        """Flags of replayed dead letters; their event time is by default that of their first append."""
        return flags_by_headers(self.headers, self.headers_of, lambda headers: headers.origin_ms is not None)

    def at(self, line: int) -> Event:
        """Return a single event."""
        row, headers = self.rows[line], self.headers[self.headers_of[line]]
        return Event(
            int(self.partitions[line]),
            int(offsets_of(row)),
            int(append_ms_of(row)),
            int(event_ms_of(row)),
            headers.namespace,
            id_of(row),
            bool(self.may_repeat_id[line]),
            headers.origin_ms is not None,
            key_of(row) if self.keyed[line] else None,
            headers.idempotency_key,
            self.text_of("feature_id", line) or "",
            self.text_of("user_id", line),
            self.text_of("session_id", line),
            self.text_of("execution_id", line),
        )

    def __iter__(self) -> Iterator[Event]:
        return map(self.at, range(len(self)))

    def text_of(self, field: str, line: int) -> str | None:
        """Return the text in a field of an event; None if it has none."""
        return read_text(self.text, self.columns, field, line)
