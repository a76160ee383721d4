"""Kafka's record format 2 (https://kafka.apache.org/documentation/#recordbatch), decoded many batches at a time.

Brokers check little of what producers write, so a record that contradicts its batch's header is not trusted. A batch
with as many records as offsets has them in order, whatever offsets they name. A batch that cannot be decoded keeps its
offsets: each becomes a row without bytes.
"""

import numpy as np
import numpy.typing as npt

from kernels.compiled import compiled
from schemas.event_time import END_MS

Bytes = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int64]
Integers32 = npt.NDArray[np.int32]
Row = npt.NDArray[np.int64]
Headers = tuple[tuple[str, bytes | None], ...]
Bounds = tuple[int, int, int]
"""Bytes of a record, its headers, and headers of all records that are decoded together."""

OFFSET, APPEND_MS, VALUE, KEY, HEADERS = 0, 1, 2, 4, 6
"""Columns of a row. The last three hold a position in the text and, in the next column, a size in bytes; -1: null."""
WIDTH = 8

# The size of a record's headers has upper bits to spare: they hold the record's flaw, 0 for none.
FLAW_SHIFT = 48
SIZE = (1 << FLAW_SHIFT) - 1
MISPLACED, BAD_TIME, LARGE, MANY_HEADERS, UNREAD = range(1, 6)
"""Flaws of records. A row with the flaw UNREAD has no bytes, and in HEADERS the number of its batch."""

BASE, STAMP_MS, IS_STAMPED, COUNT, LAST_DELTA, START, END, WANTED, FOLLOWING, FAULT, ROWS, NEXT = range(12)
"""Columns of a batch. In: its header's numbers, the range of its payload in the text, the range of offsets wanted of
it. In and out: its fault, 0 for none. Out: its number of rows, and the first offset without room, or -1."""
BATCH_WIDTH = 12
MALFORMED, LEFT_OVER, DISORDERED, MISCOUNTED, UNDECODABLE, OVERSIZED = range(1, 7)
"""Faults of batches."""


class MalformedHeaders(ValueError):
    """A record's headers are not of Kafka's format."""


@compiled
def _read_varint(text: Bytes, at: int, end: int) -> tuple[int, int]:
    """Read a number in zig-zag coding; return it and its end, or -1 for the end when it does not end."""
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
def read_records(text: Bytes, table: Integers, rows: Integers, bounds: Bounds) -> tuple[int, int]:
    """Fill in the rows of all batches in `table`, until there is no room; return the counts of rows and of faults.

    One row more is needed than is filled: it is scratch for records that are not wanted.
    """
    row, headers, faults, is_full = 0, 0, 0, False
    for number in range(len(table)):
        batch = table[number]
        if is_full:
            batch[NEXT] = batch[WANTED]
            continue
        first = row
        if batch[FAULT] == 0:
            row, headers = _read_batch(text, batch, rows, row, headers, bounds)
        if batch[FAULT] != 0:
            row = _fill_unread(number, batch, rows, first)
            faults += 1
        batch[ROWS] = row - first
        is_full = batch[NEXT] >= 0
    return row, faults


@compiled
def _read_batch(text: Bytes, batch: Row, rows: Integers, count: int, headers: int, bounds: Bounds) -> tuple[int, int]:
    """Fill in the rows of a batch, and read it to its end also without room; return the counts of rows and headers."""
    at, latest = batch[START], -1
    has_all = batch[COUNT] == batch[LAST_DELTA] + 1
    for index in range(batch[COUNT]):
        row = rows[count]
        start = at
        at, delta, named = _read_record(text, start, batch[END], batch, row)
        if at < 0:
            batch[FAULT] = MALFORMED
            return count, headers
        flaw = 0
        if has_all:
            if delta != index:
                flaw = MISPLACED
            delta = index
        elif delta <= latest or delta > batch[LAST_DELTA]:
            batch[FAULT] = DISORDERED
            return count, headers
        latest = delta
        row[OFFSET] = batch[BASE] + delta
        if row[OFFSET] < batch[WANTED] or batch[NEXT] >= 0:
            continue
        if row[APPEND_MS] < 0 or row[APPEND_MS] >= END_MS:
            flaw, row[APPEND_MS] = BAD_TIME, min(max(row[APPEND_MS], 0), END_MS - 1)
        if at - start > bounds[0]:
            flaw = LARGE
        if named > bounds[1]:
            flaw, named = MANY_HEADERS, 0
        if count + 1 == len(rows) or (headers + named > bounds[2] and count > 0):
            batch[NEXT] = row[OFFSET]
            continue
        row[HEADERS + 1] |= flaw << FLAW_SHIFT
        count += 1
        headers += max(named, 0)
    if at != batch[END]:
        batch[FAULT] = LEFT_OVER
    return count, headers


@compiled
def _fill_unread(number: int, batch: Row, rows: Integers, count: int) -> int:
    """Fill in a row without bytes for each offset of a batch with a fault; return the count of rows."""
    batch[NEXT] = -1
    for offset in range(batch[WANTED], batch[FOLLOWING]):
        if count + 1 == len(rows):
            batch[NEXT] = offset
            break
        row = rows[count]
        row[OFFSET], row[APPEND_MS] = offset, min(max(batch[STAMP_MS], 0), END_MS - 1)
        for column in (KEY, VALUE):
            row[column], row[column + 1] = 0, -1
        row[HEADERS], row[HEADERS + 1] = number, UNREAD << FLAW_SHIFT
        count += 1
    return count


@compiled
def _read_record(text: Bytes, at: int, end: int, batch: Row, row: Row) -> tuple[int, int, int]:
    """Fill in a row; return the record's end, or -1, its offset within the batch, and its stated count of headers."""
    size, at = _read_varint(text, at, end)
    # Not `at + size > end`: compiled code takes it for granted that a sum of integers does not overflow.
    if at < 0 or size < 1 or size > end - at:
        return -1, 0, 0
    record_end = at + size
    ahead_ms, at = _read_varint(text, at + 1, record_end)  # a byte of attributes, unused
    if at < 0:
        return -1, 0, 0
    delta, at = _read_varint(text, at, record_end)
    if at < 0:
        return -1, 0, 0
    row[APPEND_MS] = batch[STAMP_MS] if batch[IS_STAMPED] else batch[STAMP_MS] + ahead_ms
    for column in (KEY, VALUE):
        size, at = _read_varint(text, at, record_end)
        if at < 0 or size > record_end - at:
            return -1, 0, 0
        row[column], row[column + 1] = at, max(size, -1)
        at += max(size, 0)
    row[HEADERS], row[HEADERS + 1] = at, record_end - at
    named, _ = _read_varint(text, at, record_end)
    return record_end, delta, named


@compiled
def number_header_runs(text: Bytes, rows: Integers, runs: Integers32) -> int:
    """Write the number of each row's run into `runs`: neighbours with equal headers and flaws. Return their count."""
    count = 0
    for i in range(len(rows)):
        if i == 0 or not _has_same_headers(text, rows[i - 1], rows[i]):
            count += 1
        runs[i] = count - 1
    return count


@compiled
def _has_same_headers(text: Bytes, one: Row, other: Row) -> bool:
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
    """Decode the header section of one record. Nothing outside `raw` is read.

    Bytes of a name that are not UTF-8 become surrogates, as in file names; a name of size -1 becomes ''. Raises
    MalformedHeaders.
    """
    section = np.frombuffer(raw, np.uint8)

    def next_bytes(at: int) -> tuple[bytes | None, int]:
        size, at = _read_varint(section, at, len(raw))
        if at < 0 or size > len(raw) - at:
            raise MalformedHeaders("a header goes beyond the end of its record")
        return (None, at) if size < 0 else (raw[at : at + size], at + size)

    count, at = _read_varint(section, 0, len(raw))
    headers: list[tuple[str, bytes | None]] = []
    for _ in range(count):
        name, at = next_bytes(at)
        value, at = next_bytes(at)
        headers.append(((name or b"").decode(errors="surrogateescape"), value))
    if count < 0 or at != len(raw):
        raise MalformedHeaders("the count of headers is not the stated one")
    return tuple(headers)
