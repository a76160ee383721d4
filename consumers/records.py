"""Columnar view of records: rows over one text. A record becomes an object only when it is needed alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from consumers.record_flaws import headers_and_flaw
from consumers.record_limits import DEFAULT_LIMITS
from kernels.boundary import (
    APPEND_MS,
    HEADERS,
    KEY,
    OFFSET,
    SIZE,
    VALUE,
    WIDTH,
    Bytes,
    Headers,
    Integers,
    ReadLimits,
    read_batches,
)
from runtime.kafka import Record
from runtime.log_batches import Items
from runtime.whole_batches import WholeBatch
from schemas.rejection import Rejection


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
    def read(
        cls, fetched: Mapping[int, Items], limits: ReadLimits = DEFAULT_LIMITS
    ) -> "tuple[Records, dict[int, Items]]":
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
    def read_all(cls, fetched: Mapping[int, Items]) -> "Records":
        """Read all fetched items, whatever their size."""
        parts: list[Records] = []
        while fetched:
            records, fetched = cls.read(fetched)
            parts.append(records)
        return cls.joined(parts)

    @classmethod
    def joined(cls, parts: "Sequence[Records]") -> "Records":
        """Join parts; of each partition, records of a later part come after those of an earlier one."""
        parts = [part for part in parts if len(part)]  # an empty one has no extent of text
        if len(parts) == 1:
            return parts[0]
        known = _HeaderNumbers()
        texts, rows, headers_of, end = [], [np.empty((0, WIDTH), np.int64)], [np.empty(0, np.int32)], 0
        for part in parts:
            first, after = part._extent()
            texts.append(part.text[first:after])
            moved = part.rows.copy()
            moved[:, [VALUE, KEY]] += end - first
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
        firsts, sizes = self.rows[:, [VALUE, KEY]], np.maximum(self.rows[:, [VALUE + 1, KEY + 1]], 0)
        return int(firsts.min(initial=len(self.text))), int((firsts + sizes).max(initial=0))

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
        return self.rows[:, OFFSET]

    @property
    def append_ms(self) -> npt.NDArray[np.int64]:
        """Append times in milliseconds since 1970."""
        return self.rows[:, APPEND_MS]

    @property
    def values(self) -> Integers:
        """Start of each value in the text, and its size in bytes; -1 for null."""
        return self.rows[:, VALUE : VALUE + 2]

    @property
    def nbytes(self) -> int:
        """Bytes of keys, values and headers."""
        sizes = np.maximum(self.rows[:, [KEY + 1, VALUE + 1]], 0).sum() + (self.rows[:, HEADERS + 1] & SIZE).sum()
        return int(sizes)

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
    for run, (start, coded) in enumerate(rows[firsts, HEADERS:].tolist()):
        section = text[start : start + coded].tobytes() if coded <= SIZE else start, coded
        if section not in sections:
            sections[section] = known(*headers_and_flaw(batches, start, coded))
        numbers[run] = sections[section]
    records = Records(text, rows, partitions[batches.batch_of], known.headers, known.flaws, numbers[run_of])
    return records, [(fetched[i][0], fetched[i][1]._replace(offset=offset)) for i, offset in batches.unread]


def _of_records(fetched: Sequence[tuple[int, Record]]) -> Records:
    """Read records and their partitions."""
    known, records = _HeaderNumbers(), [record for _, record in fetched]
    rows = np.zeros((len(records), WIDTH), np.int64)
    rows[:, OFFSET] = [record.offset for record in records]
    rows[:, APPEND_MS] = [record.timestamp for record in records]
    values, keys = [record.value for record in records], [record.key for record in records]
    start = 0
    for column, texts in ((VALUE, values), (KEY, keys)):
        sizes = np.array([-1 if text is None else len(text) for text in texts], np.int64)
        ends = start + np.cumsum(np.maximum(sizes, 0))
        rows[:, column], rows[:, column + 1] = ends - np.maximum(sizes, 0), sizes
        start = int(ends[-1]) if len(ends) else start
    text = np.frombuffer(b"".join(text or b"" for text in (*values, *keys)), np.uint8)
    partitions = np.array([partition for partition, _ in fetched], np.uint32)
    headers_of = np.array([known(tuple(record.headers), None) for record in records], np.int32)
    return Records(text, rows, partitions, known.headers, known.flaws, headers_of)
