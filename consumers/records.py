"""Records of a topic as lines over one text, so that nothing is made of a record that is not needed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from runtime.kafka import Record
from runtime.record_format import (
    APPEND_MS,
    HEADERS,
    KEY,
    OFFSET,
    VALUE,
    WIDTH,
    Bytes,
    Headers,
    Lines,
    read_batches,
    read_headers,
    runs_of_headers,
)
from runtime.whole_batches import WholeBatch


class PlainRecord(NamedTuple):
    """One record by itself."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers


@dataclass(frozen=True)
class Records:
    """Records of some partitions: those of one behind those of another, in offset order."""

    text: Bytes
    lines: Lines
    """One each, as in `runtime.record_format`."""
    partitions: npt.NDArray[np.uint32]
    headers: Sequence[Headers]
    headers_of: npt.NDArray[np.int32]

    @classmethod
    def read(cls, fetched: Mapping[int, Sequence[WholeBatch | Record]]) -> "Records":
        """What a poll brought, by partition. Raises aiokafka's KafkaError, and UnicodeDecodeError."""
        placed: Any = [(partition, item) for partition, items in fetched.items() for item in items]
        runs = groupby(placed, lambda each: isinstance(each[1], WholeBatch))
        return cls.joined([_of_batches(list(run)) if is_whole else _of_records(list(run)) for is_whole, run in runs])

    @classmethod
    def joined(cls, parts: "Sequence[Records]") -> "Records":
        """These together; of each partition what is in a later one lies behind."""
        if len(parts) == 1:
            return parts[0]
        known = _Numbers()
        texts, lines, headers_of, end = [], [np.empty((0, WIDTH), np.int64)], [np.empty(0, np.int32)], 0
        for part in parts:
            first, behind = part._extent()
            texts.append(part.text[first:behind])
            moved = part.lines.copy()
            moved[:, [VALUE, KEY]] += end - first
            end += behind - first
            lines.append(moved)
            numbers = np.array([known(headers) for headers in part.headers], np.int32)
            headers_of.append(numbers[part.headers_of])
        text = np.frombuffer(b"".join(texts), np.uint8)  # type: ignore[arg-type]
        partitions = np.concatenate([np.empty(0, np.uint32), *(part.partitions for part in parts)])
        together = cls(text, np.concatenate(lines), partitions, known.headers, np.concatenate(headers_of))
        return together._by_partition()

    def _extent(self) -> tuple[int, int]:
        """Where in the text its first byte is, and behind its last; headers are read already."""
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
        return Records(self.text, self.lines[lines], self.partitions[lines], self.headers, self.headers_of[lines])

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
        """Bytes of keys and values."""
        return int(np.maximum(self.lines[:, [KEY + 1, VALUE + 1]], 0).sum())

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
        self._known: dict[Headers, int] = {}

    def __call__(self, headers: Headers) -> int:
        number = self._known.setdefault(headers, len(self.headers))
        if number == len(self.headers):
            self.headers.append(headers)
        return number


def _of_batches(placed: Sequence[tuple[int, WholeBatch]]) -> Records:
    """Of batches and their partitions."""
    text, lines, batch_of = read_batches([batch for _, batch in placed])
    partitions = np.array([partition for partition, _ in placed], np.uint32)[batch_of]
    run_of = np.empty(len(lines), np.int32)
    runs_of_headers(text, lines, run_of)
    firsts = np.flatnonzero(np.diff(run_of, prepend=-1))
    known, sections = _Numbers(), dict[bytes, int]()
    numbers = np.empty(len(firsts), np.int32)
    for run, (first, size) in enumerate(lines[firsts, HEADERS:].tolist()):
        section = text[first : first + size].tobytes()
        if section not in sections:
            sections[section] = known(read_headers(section))
        numbers[run] = sections[section]
    return Records(text, lines, partitions, known.headers, numbers[run_of])


def _of_records(placed: Sequence[tuple[int, Record]]) -> Records:
    """Of records and their partitions."""
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
    headers_of = np.array([known(tuple(record.headers)) for record in records], np.int32)
    return Records(text, lines, partitions, known.headers, headers_of)
