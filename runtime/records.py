"""Records of a topic as lines over one text, so that nothing is made of a record that is not needed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kernels.record_format import (
    APPEND_MS,
    HEADERS,
    KEY,
    OFFSET,
    SIZE,
    VALUE,
    WIDTH,
    Bytes,
    Headers,
    Lines,
    runs_of_headers,
)
from runtime.batch_reader import Limits, read_batches
from runtime.kafka import Record
from runtime.whole_batches import WholeBatch
from schemas.rejection import Rejection

Items = Sequence[WholeBatch | Record]

_LIMITS = Limits()


class PlainRecord(NamedTuple):
    """One record by itself."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers


@dataclass(frozen=True)
class Records:
    """Records of some partitions: those of one after those of another, in offset order."""

    text: Bytes
    lines: Lines
    """One each, as in `kernels.record_format`."""
    partitions: npt.NDArray[np.uint32]
    headers: Sequence[Headers]
    flaws: Sequence[Rejection | None]
    """One for each of `headers`: why a record with them cannot be an event, as far as the log says."""
    headers_of: npt.NDArray[np.int32]

    @classmethod
    def read(cls, fetched: Mapping[int, Items], limits: Limits = _LIMITS) -> "tuple[Records, dict[int, Items]]":
        """Read what a poll brought, by partition, as far as the limits allow; returns the rest, too."""
        placed: Any = [(partition, item) for partition, items in fetched.items() for item in items]
        parts: list[Records] = []
        rest: list[tuple[int, Any]] = []
        for is_whole, run in groupby(placed, lambda each: isinstance(each[1], WholeBatch)):
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
        """Read all that a poll brought, however much it is."""
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
        known = _Numbers()
        texts, lines, headers_of, end = [], [np.empty((0, WIDTH), np.int64)], [np.empty(0, np.int32)], 0
        for part in parts:
            first, after = part._extent()
            texts.append(part.text[first:after])
            moved = part.lines.copy()
            moved[:, [VALUE, KEY]] += end - first
            end += after - first
            lines.append(moved)
            numbers = np.zeros(len(part.headers), np.int32)
            for number in np.flatnonzero(np.bincount(part.headers_of)).tolist():
                numbers[number] = known(part.headers[number], part.flaws[number])
            headers_of.append(numbers[part.headers_of])
        text = np.frombuffer(b"".join(texts), np.uint8)  # type: ignore[arg-type]
        partitions = np.concatenate([np.empty(0, np.uint32), *(part.partitions for part in parts)])
        together = cls(text, np.concatenate(lines), partitions, known.headers, known.flaws, np.concatenate(headers_of))
        return together._by_partition()

    def _extent(self) -> tuple[int, int]:
        """Where in the text its first byte is, and after its last; headers are read already."""
        firsts, sizes = self.lines[:, [VALUE, KEY]], np.maximum(self.lines[:, [VALUE + 1, KEY + 1]], 0)
        return int(firsts.min(initial=len(self.text))), int((firsts + sizes).max(initial=0))

    def _by_partition(self) -> "Records":
        """Each partition's records together, that which came first in front: so none is left behind for ever."""
        if np.count_nonzero(np.diff(self.partitions)) < len(np.unique(self.partitions)):
            return self
        _, firsts, which = np.unique(self.partitions, return_index=True, return_inverse=True)
        return self[np.argsort(firsts[which], kind="stable")]

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, lines: slice | npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> "Records":
        headers_of = self.headers_of[lines]
        return Records(self.text, self.lines[lines], self.partitions[lines], self.headers, self.flaws, headers_of)

    @property
    def offsets(self) -> npt.NDArray[np.int64]:
        """Their offsets; in each partition they rise."""
        return self.lines[:, OFFSET]

    @property
    def append_ms(self) -> npt.NDArray[np.int64]:
        """When each was appended, in ms since 1970."""
        return self.lines[:, APPEND_MS]

    @property
    def values(self) -> Lines:
        """Where each value begins in the text, and its size; -1 for null."""
        return self.lines[:, VALUE : VALUE + 2]

    @property
    def nbytes(self) -> int:
        """Bytes of keys, values and headers."""
        sizes = np.maximum(self.lines[:, [KEY + 1, VALUE + 1]], 0).sum() + (self.lines[:, HEADERS + 1] & SIZE).sum()
        return int(sizes)

    def flaw_at(self, line: int) -> Rejection | None:
        """Why a record cannot be an event, as far as the log says."""
        return self.flaws[int(self.headers_of[line])]

    @property
    def flawed(self) -> dict[int, Rejection]:
        """By line, what is wrong with those records that have a flaw."""
        numbers = [number for number, flaw in enumerate(self.flaws) if flaw]
        lines = np.flatnonzero(np.isin(self.headers_of, numbers)).tolist() if numbers else []
        return {line: flaw for line in lines if (flaw := self.flaw_at(line))}

    def at(self, line: int) -> PlainRecord:
        """One by itself."""
        offset, append_ms, value, value_size, key, key_size, *_ = self.lines[line].tolist()
        return PlainRecord(
            offset,
            append_ms,
            None if key_size < 0 else self.text[key : key + key_size].tobytes(),
            None if value_size < 0 else self.text[value : value + value_size].tobytes(),
            self.headers[self.headers_of[line]],
        )


class _Numbers:
    """Numbers different headers."""

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
    placed: Sequence[tuple[int, WholeBatch]], limits: Limits
) -> tuple[Records, list[tuple[int, WholeBatch]]]:
    """Records of batches and their partitions, and the batches that there was no room for."""
    reading = read_batches([batch for _, batch in placed], limits)
    text, lines = reading.text, reading.lines
    partitions = np.array([partition for partition, _ in placed], np.uint32)
    run_of = np.empty(len(lines), np.int32)
    runs_of_headers(text, lines, run_of)
    firsts = np.flatnonzero(np.diff(run_of, prepend=-1))
    known, sections = _Numbers(), dict[tuple[bytes | int, int], int]()
    numbers = np.empty(len(firsts), np.int32)
    for run, (place, coded) in enumerate(lines[firsts, HEADERS:].tolist()):
        section = text[place : place + coded].tobytes() if coded <= SIZE else place, coded
        if section not in sections:
            sections[section] = known(*reading.headers_of(place, coded))
        numbers[run] = sections[section]
    records = Records(text, lines, partitions[reading.batch_of], known.headers, known.flaws, numbers[run_of])
    unread = zip(partitions[len(placed) - len(reading.rest) :].tolist(), reading.rest, strict=True)
    return records, list(unread)


def _of_records(placed: Sequence[tuple[int, Record]]) -> Records:
    """Read records and their partitions."""
    known, records = _Numbers(), [record for _, record in placed]
    lines = np.zeros((len(records), WIDTH), np.int64)
    lines[:, OFFSET] = [record.offset for record in records]
    lines[:, APPEND_MS] = [record.timestamp for record in records]
    values, keys = [record.value for record in records], [record.key for record in records]
    begin = 0
    for column, texts in ((VALUE, values), (KEY, keys)):
        sizes = np.array([-1 if text is None else len(text) for text in texts], np.int64)
        ends = begin + np.cumsum(np.maximum(sizes, 0))
        lines[:, column], lines[:, column + 1] = ends - np.maximum(sizes, 0), sizes
        begin = int(ends[-1]) if len(ends) else begin
    text = np.frombuffer(b"".join(text or b"" for text in (*values, *keys)), np.uint8)
    partitions = np.array([partition for partition, _ in placed], np.uint32)
    headers_of = np.array([known(tuple(record.headers), None) for record in records], np.int32)
    return Records(text, lines, partitions, known.headers, known.flaws, headers_of)
