"""Columnar view of records: rows over one text, read within bounds of memory and of size.

A record becomes an object only when it is needed alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kernels.boundary import (
    BatchFault,
    Bytes,
    Headers,
    Integers,
    MalformedHeaders,
    ReadLimits,
    RecordBatches,
    read_batches,
    read_headers,
)
from kernels.boundary import record_format as form
from runtime.kafka import Record
from runtime.log_batches import Items
from runtime.settings import Settings
from runtime.sizes import MIB
from runtime.whole_batches import WholeBatch
from schemas.letter import MOST_LETTER_BYTES, MOST_LETTER_HEADERS
from schemas.rejection import Reason, Rejection

EVENT_BYTES = 2 * MIB
"""Lower bound of the maximum event size; a larger TALLY_MAX_RECORD_BYTES raises it."""
MOST_HEADERS = 1_000
"""Maximum headers of a record: each takes two bytes in a record batch, and a hundred in memory."""

DEFAULT_LIMITS = ReadLimits(
    batch_bytes=64 * MIB,
    record_bytes=EVENT_BYTES,
    record_headers=MOST_HEADERS,
    total_bytes=16 * MIB,
    rows=65_536,
    headers=524_288,
)

_FLAWS = {
    form.MISPLACED: Rejection("bad_record", "offset", "names another offset than its position in its batch"),
    form.BAD_TIME: Rejection("bad_record", "timestamp", "is outside 1970 to 2262"),
    form.LARGE: Rejection("too_large", "", "is larger than any event, when decompressed (TALLY_MAX_RECORD_BYTES)"),
    form.MANY_HEADERS: Rejection(
        "bad_record", "headers", f"are more than {MOST_HEADERS:,}; this dead letter omits them"
    ),
}
_BAD_HEADERS = Rejection("bad_record", "headers", "are not in Kafka's format; this dead letter omits them")
_FAULTS = {
    form.MALFORMED: "a record is not of Kafka's format",
    form.LEFT_OVER: "bytes are left after its last record",
    form.DISORDERED: "its records' offsets are not ascending, or are outside the batch's range",
    form.MISCOUNTED: "it cannot have as many records as it states",
    form.UNDECODABLE: "it cannot be decompressed",
    form.OVERSIZED: "uncompressed it is larger than TALLY_BATCH_UNCOMPRESSED_BYTES",
}


def event_limits(settings: Settings) -> ReadLimits:
    """Return the limits for the topic of events."""
    return DEFAULT_LIMITS._replace(
        batch_bytes=settings.batch_uncompressed_bytes, record_bytes=max(EVENT_BYTES, settings.max_record_bytes)
    )


def letter_limits(settings: Settings) -> ReadLimits:
    """Return the limits for the dead-letter topic: a dead letter holds a whole record, and the reason."""
    most_bytes = settings.batch_uncompressed_bytes + MOST_LETTER_BYTES
    return DEFAULT_LIMITS._replace(
        batch_bytes=most_bytes, record_bytes=most_bytes, record_headers=MOST_HEADERS + MOST_LETTER_HEADERS
    )


class PlainRecord(NamedTuple):
    """Single record."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers


@dataclass(frozen=True)
class Records:
    """Records of some partitions, grouped by partition and in offset order there."""

    text: Bytes
    rows: Integers
    """One row per record, in the columns of `kernels.record_format`."""
    partitions: npt.NDArray[np.uint32]
    headers: Sequence[Headers]
    flaws: Sequence[Rejection | None]
    """For each of `headers`, the reason why records with them cannot be events, or None."""
    headers_of: npt.NDArray[np.int32]

    @classmethod
    def read(cls, fetched: Mapping[int, Items], limits: ReadLimits) -> "tuple[Records, dict[int, Items]]":
        """Read fetched items by partition as far as the limits allow; also return the unread rest."""
        every: Any = [(partition, item) for partition, items in fetched.items() for item in items]
        parts: list[Records] = []
        rest: list[tuple[int, Any]] = []
        for is_whole, run in groupby(every, lambda each: isinstance(each[1], WholeBatch)):
            if rest:
                rest += run
            elif is_whole:
                part, rest = _of_batches(list(run), limits)
                parts.append(part)
            else:
                parts.append(_of_records(list(run)))
        unread: dict[int, list[Any]] = {}
        for partition, item in rest:
            unread.setdefault(partition, []).append(item)
        return cls.joined(parts), {**unread}

    @classmethod
    def joined(cls, parts: "Sequence[Records]") -> "Records":
        """Join parts; of each partition, records of a later part come after those of an earlier one."""
        parts = [part for part in parts if len(part)]  # an empty one has no extent of text
        if len(parts) == 1:
            return parts[0]
        known = _HeaderNumbers()
        texts, rows, headers_of, end = [], [np.empty((0, form.WIDTH), np.int64)], [np.empty(0, np.int32)], 0
        for part in parts:
            first, after = part._extent()
            texts.append(part.text[first:after])
            moved = part.rows.copy()
            moved[:, [form.VALUE, form.KEY]] += end - first
            end += after - first
            rows.append(moved)
            numbers = np.zeros(len(part.headers), np.int32)
            for number in np.flatnonzero(np.bincount(part.headers_of)).tolist():
                numbers[number] = known(part.headers[number], part.flaws[number])
            headers_of.append(numbers[part.headers_of])
        text = np.frombuffer(b"".join(texts), np.uint8)  # type: ignore[arg-type]
        partitions = np.concatenate([np.empty(0, np.uint32), *(part.partitions for part in parts)])
        together = cls(text, np.concatenate(rows), partitions, known.headers, known.flaws, np.concatenate(headers_of))
        return together._by_partition()

    def _extent(self) -> tuple[int, int]:
        """Return the range of the text that its keys and values take; headers are read already."""
        firsts = self.rows[:, [form.VALUE, form.KEY]]
        ends = firsts + np.maximum(self.rows[:, [form.VALUE + 1, form.KEY + 1]], 0)
        return int(firsts.min(initial=len(self.text))), int(ends.max(initial=0))

    def _by_partition(self) -> "Records":
        """Group the records by partition, in order of first appearance: so every partition has its turn."""
        if np.count_nonzero(np.diff(self.partitions)) < len(np.unique(self.partitions)):
            return self
        _, firsts, which = np.unique(self.partitions, return_index=True, return_inverse=True)
        return self[np.argsort(firsts[which], kind="stable")]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: slice | npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> "Records":
        headers_of = self.headers_of[rows]
        return Records(self.text, self.rows[rows], self.partitions[rows], self.headers, self.flaws, headers_of)

    @property
    def offsets(self) -> npt.NDArray[np.int64]:
        """Offsets, ascending in each partition."""
        return self.rows[:, form.OFFSET]

    @property
    def append_ms(self) -> npt.NDArray[np.int64]:
        """Append times in milliseconds since 1970."""
        return self.rows[:, form.APPEND_MS]

    @property
    def values(self) -> Integers:
        """Start of each value in the text, and its size in bytes; -1 for null."""
        return self.rows[:, form.VALUE : form.VALUE + 2]

    @property
    def nbytes(self) -> int:
        """Bytes of keys, values and headers."""
        sizes = np.maximum(self.rows[:, [form.KEY + 1, form.VALUE + 1]], 0)
        return int(sizes.sum() + (self.rows[:, form.HEADERS + 1] & form.SIZE).sum())

    def flaw_at(self, row: int) -> Rejection | None:
        """Return the reason why a record cannot be an event, if its log shows one."""
        return self.flaws[int(self.headers_of[row])]

    @property
    def flawed(self) -> dict[int, Rejection]:
        """Flaws by row, of the records that have one."""
        numbers = [number for number, flaw in enumerate(self.flaws) if flaw]
        rows = np.flatnonzero(np.isin(self.headers_of, numbers)).tolist() if numbers else []
        return {row: flaw for row in rows if (flaw := self.flaw_at(row))}

    def at(self, row: int) -> PlainRecord:
        """Return a single record."""
        offset, append_ms, value, value_size, key, key_size, *_ = self.rows[row].tolist()
        return PlainRecord(
            offset,
            append_ms,
            None if key_size < 0 else self.text[key : key + key_size].tobytes(),
            None if value_size < 0 else self.text[value : value + value_size].tobytes(),
            self.headers[self.headers_of[row]],
        )


class _HeaderNumbers:
    """Numbering of distinct pairs of headers and flaw."""

    def __init__(self) -> None:
        self.headers: list[Headers] = []
        self.flaws: list[Rejection | None] = []
        self._known: dict[tuple[Headers, Rejection | None], int] = {}

    def __call__(self, headers: Headers, flaw: Rejection | None) -> int:
        number = self._known.setdefault((headers, flaw), len(self.headers))
        if number == len(self.headers):
            self.headers.append(headers)
            self.flaws.append(flaw)
        return number


def _of_batches(
    fetched: Sequence[tuple[int, WholeBatch]], limits: ReadLimits
) -> tuple[Records, list[tuple[int, WholeBatch]]]:
    """Read batches with their partitions; also return the batches, or their rests, for which there was no room."""
    batches = read_batches([(batch.raw, batch.offset) for _, batch in fetched], limits)
    text, rows = batches.text, batches.rows
    partitions = np.array([partition for partition, _ in fetched], np.uint32)
    run_of = batches.number_header_runs()
    firsts = np.flatnonzero(np.diff(run_of, prepend=-1))
    known, sections = _HeaderNumbers(), dict[tuple[bytes | int, int], int]()
    numbers = np.empty(len(firsts), np.int32)
    for run, (start, coded) in enumerate(rows[firsts, form.HEADERS :].tolist()):
        section = text[start : start + coded].tobytes() if coded <= form.SIZE else start, coded
        if section not in sections:
            sections[section] = known(*headers_and_flaw(batches, start, coded))
        numbers[run] = sections[section]
    records = Records(text, rows, partitions[batches.batch_of], known.headers, known.flaws, numbers[run_of])
    return records, [(fetched[i][0], fetched[i][1]._replace(offset=offset)) for i, offset in batches.unread]


def _of_records(fetched: Sequence[tuple[int, Record]]) -> Records:
    """Read records and their partitions."""
    known, records = _HeaderNumbers(), [record for _, record in fetched]
    rows = np.zeros((len(records), form.WIDTH), np.int64)
    rows[:, form.OFFSET] = [record.offset for record in records]
    rows[:, form.APPEND_MS] = [record.timestamp for record in records]
    values, keys = [record.value for record in records], [record.key for record in records]
    start = 0
    for column, texts in ((form.VALUE, values), (form.KEY, keys)):
        sizes = np.array([-1 if text is None else len(text) for text in texts], np.int64)
        ends = start + np.cumsum(np.maximum(sizes, 0))
        rows[:, column], rows[:, column + 1] = ends - np.maximum(sizes, 0), sizes
        start = int(ends[-1]) if len(ends) else start
    text = np.frombuffer(b"".join(text or b"" for text in (*values, *keys)), np.uint8)
    partitions = np.array([partition for partition, _ in fetched], np.uint32)
    headers_of = np.array([known(tuple(record.headers), None) for record in records], np.int32)
    return Records(text, rows, partitions, known.headers, known.flaws, headers_of)


def headers_and_flaw(batches: RecordBatches, start: int, coded: int) -> tuple[Headers, Rejection | None]:
    """Decode the two header columns of a row: the record's headers, and why it cannot be an event."""
    flaw = coded >> form.FLAW_SHIFT
    if flaw == form.UNREAD:
        return (), _rejection_of(batches.faults[start])
    if flaw == form.MANY_HEADERS:
        return (), _FLAWS[flaw]
    try:
        return read_headers(batches.text[start : start + (coded & form.SIZE)].tobytes()), _FLAWS.get(flaw)
    except MalformedHeaders:
        return (), _BAD_HEADERS


def _rejection_of(fault: BatchFault) -> Rejection:
    reason: Reason = "batch_too_large" if fault.code == form.OVERSIZED else "bad_batch"
    why = f"{_FAULTS[fault.code]} ({fault.detail})" if fault.detail else _FAULTS[fault.code]
    return Rejection(
        reason, "", f"the batch of offsets {fault.first_offset} to {fault.last_offset} cannot be read: {why}"
    )
