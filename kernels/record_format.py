"""Kafka's record format 2 (https://kafka.apache.org/documentation/#recordbatch), read many batches at a time.

Brokers check little of what producers write, so a record that contradicts its batch's header is not believed. A batch
with as many records as offsets has them in order, whatever offsets they name. A batch that cannot be read keeps its
offsets: each becomes a line without bytes.
"""

import numpy as np
import numpy.typing as npt
from aiokafka.errors import CorruptRecordException

from kernels.compiled import compiled
from schemas.event_time import END_MS

Bytes = npt.NDArray[np.uint8]
Lines = npt.NDArray[np.int64]
Row = npt.NDArray[np.int64]
Headers = tuple[tuple[str, bytes | None], ...]
Bounds = tuple[int, int, int]
"""Bytes of a record, its headers, and headers of all records that are read together."""

OFFSET, APPEND_MS, VALUE, KEY, HEADERS = 0, 1, 2, 4, 6
"""Columns of a line. The last three have a first byte's place and, in the next column, a size; -1: null."""
WIDTH = 8

# The size of a record's headers has upper bits to spare: they hold what is wrong with the record, 0 for nothing.
FLAW_SHIFT = 48
SIZE = (1 << FLAW_SHIFT) - 1
MISPLACED, BAD_TIME, LARGE, MANY_HEADERS, UNREAD = range(1, 6)
"""Flaws. UNREAD is that of a line without bytes, which has its batch's number in the first column of its headers."""

BASE, STAMP_MS, IS_STAMPED, COUNT, LAST_DELTA, BEGIN, END, WANTED, FOLLOWING, FAULT, LINES, NEXT = range(12)
"""Columns of a batch: its header's numbers, where its payload is in the text, and the offsets that are wanted of it;
then why it cannot be read, how many lines it has, and the first offset that found no room, or -1."""
BATCH_WIDTH = 12
MALFORMED, LEFT_OVER, DISORDERED, MISCOUNTED, UNDECODABLE, OVERSIZED = range(1, 7)
"""Why a batch cannot be read."""


@compiled
def _read_varint(text: Bytes, at: int, end: int) -> tuple[int, int]:
    """A number in zig-zag coding and where it ends; -1 when it does not."""
    value = 0
    for shift in range(0, 64, 7):
        if at >= end:
            return 0, -1
        byte = int(text[at])
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return ((value >> 1) & 0x7FFFFFFFFFFFFFFF) ^ -(value & 1), at
    return 0, -1


@compiled
def read_records(text: Bytes, table: Lines, lines: Lines, bounds: Bounds) -> tuple[int, int]:
    """Fill in lines and what came of each batch, until there is no room; answers how many lines and faults it found."""
    line, headers, faults, is_full = 0, 0, 0, False
    for number in range(len(table)):
        batch = table[number]
        if is_full:
            batch[NEXT] = batch[WANTED]
            continue
        first = line
        if batch[FAULT] == 0:
            line, headers = _read_batch(text, batch, lines, line, headers, bounds)
        if batch[FAULT] != 0:
            line = _fill_unread(number, batch, lines, first)
            faults += 1
        batch[LINES] = line - first
        is_full = batch[NEXT] >= 0
    return line, faults


@compiled
def _read_batch(text: Bytes, batch: Row, lines: Lines, line: int, headers: int, bounds: Bounds) -> tuple[int, int]:
    """Fill in the lines of a batch, and read it to its end even where there is no room: answers both counts."""
    at, latest = batch[BEGIN], -1
    has_all = batch[COUNT] == batch[LAST_DELTA] + 1
    for place in range(batch[COUNT]):
        row = lines[line]
        begin = at
        at, delta, named = _read_record(text, begin, batch[END], batch, row)
        if at < 0:
            batch[FAULT] = MALFORMED
            return line, headers
        flaw = 0
        if has_all:
            if delta != place:
                flaw = MISPLACED
            delta = place
        elif delta <= latest or delta > batch[LAST_DELTA]:
            batch[FAULT] = DISORDERED
            return line, headers
        latest = delta
        row[OFFSET] = batch[BASE] + delta
        if row[OFFSET] < batch[WANTED] or batch[NEXT] >= 0:
            continue
        if row[APPEND_MS] < 0 or row[APPEND_MS] >= END_MS:
            flaw, row[APPEND_MS] = BAD_TIME, min(max(row[APPEND_MS], 0), END_MS - 1)
        if at - begin > bounds[0]:
            flaw = LARGE
        if named > bounds[1]:
            flaw, named = MANY_HEADERS, 0
        if line + 1 == len(lines) or (headers + named > bounds[2] and line > 0):
            batch[NEXT] = row[OFFSET]
            continue
        row[HEADERS + 1] |= flaw << FLAW_SHIFT
        line += 1
        headers += max(named, 0)
    if at != batch[END]:
        batch[FAULT] = LEFT_OVER
    return line, headers


@compiled
def _fill_unread(number: int, batch: Row, lines: Lines, line: int) -> int:
    """Fill in a line without bytes for each offset of a batch that cannot be read; answers where they end."""
    batch[NEXT] = -1
    for offset in range(batch[WANTED], batch[FOLLOWING]):
        if line + 1 == len(lines):
            batch[NEXT] = offset
            break
        row = lines[line]
        row[OFFSET], row[APPEND_MS] = offset, min(max(batch[STAMP_MS], 0), END_MS - 1)
        for column in (KEY, VALUE):
            row[column], row[column + 1] = 0, -1
        row[HEADERS], row[HEADERS + 1] = number, UNREAD << FLAW_SHIFT
        line += 1
    return line


@compiled
def _read_record(text: Bytes, at: int, end: int, batch: Row, line: Row) -> tuple[int, int, int]:
    """Fill in a line; answers where the record ends, or -1, its offset in the batch, and how many headers it names."""
    size, at = _read_varint(text, at, end)
    # Not `at + size > end`: compiled code takes it for granted that a sum of integers does not overflow.
    if at < 0 or size < 1 or size > end - at:
        return -1, 0, 0
    after = at + size
    ahead_ms, at = _read_varint(text, at + 1, after)  # a byte of attributes, unused
    if at < 0:
        return -1, 0, 0
    delta, at = _read_varint(text, at, after)
    if at < 0:
        return -1, 0, 0
    line[APPEND_MS] = batch[STAMP_MS] if batch[IS_STAMPED] else batch[STAMP_MS] + ahead_ms
    for column in (KEY, VALUE):
        size, at = _read_varint(text, at, after)
        if at < 0 or size > after - at:
            return -1, 0, 0
        line[column], line[column + 1] = at, max(size, -1)
        at += max(size, 0)
    line[HEADERS], line[HEADERS + 1] = at, after - at
    named, _ = _read_varint(text, at, after)
    return after, delta, named


@compiled
def runs_of_headers(text: Bytes, lines: Lines, run_of: npt.NDArray[np.int32]) -> int:
    """Number the records so that neighbours with the same headers have the same number; answers how many there are."""
    runs = 0
    for line in range(len(lines)):
        if line == 0 or not _is_same(text, lines[line - 1], lines[line]):
            runs += 1
        run_of[line] = runs - 1
    return runs


@compiled
def _is_same(text: Bytes, one: Row, other: Row) -> bool:
    if one[HEADERS + 1] != other[HEADERS + 1]:
        return False
    size = one[HEADERS + 1] & SIZE
    if size == 0:
        return bool(one[HEADERS] == other[HEADERS])
    for i in range(size):
        if text[one[HEADERS] + i] != text[other[HEADERS] + i]:
            return False
    return True


def read_headers(raw: bytes) -> Headers:
    """The headers of a record; bytes of a name that are not UTF-8 become surrogates, as in file names.

    Raises CorruptRecordException.
    """
    section = np.frombuffer(raw, np.uint8)

    def next_bytes(at: int) -> tuple[bytes | None, int]:
        size, at = _read_varint(section, at, len(raw))
        if at < 0 or size > len(raw) - at:
            raise CorruptRecordException("a record's headers are not of Kafka's format")
        return (None, at) if size < 0 else (raw[at : at + size], at + size)

    count, at = _read_varint(section, 0, len(raw))
    headers: list[tuple[str, bytes | None]] = []
    for _ in range(count):
        name, at = next_bytes(at)
        value, at = next_bytes(at)
        headers.append(((name or b"").decode(errors="surrogateescape"), value))
    if count < 0 or at != len(raw):
        raise CorruptRecordException("a record's headers are not of Kafka's format")
    return tuple(headers)
