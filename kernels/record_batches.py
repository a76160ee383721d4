"""Kafka record batches decoded into rows over one text, within bounds of memory.

Input is untrusted: a batch that cannot be decoded becomes a fault, and keeps its offsets.
"""

import struct
import threading
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from kernels import record_format as form
from kernels.decompression import NoRoom, Undecodable, decompress
from kernels.record_format import Bytes, Integers, number_header_runs

_HEADER = struct.Struct(">qiibIhiqqqhii")
_CODEC, _LOG_APPEND_TIME = 0x07, 0x08
_LEAST_RECORD_BYTES = 7
_MOST_FAULTS = 8
"""Maximum undecodable batches per call. Each may cost as much time as a batch of the maximum size."""


class ReadLimits(NamedTuple):
    """Bounds of one call of `read_batches`. Batches beyond the last three are left for the next call."""

    batch_bytes: int
    """Uncompressed bytes of a batch. A larger one has the fault OVERSIZED."""
    record_bytes: int
    """Bytes of a record. A larger one has the flaw LARGE."""
    record_headers: int
    """Headers of a record. One with more has the flaw MANY_HEADERS."""
    total_bytes: int
    """Uncompressed bytes after which no further batch is started."""
    rows: int
    headers: int


class BatchFault(NamedTuple):
    """Reason why a batch cannot be decoded: a code of `kernels.record_format`, and the offsets that it covers."""

    code: int
    first_offset: int
    last_offset: int
    detail: str
    """The decompressor's message for UNDECODABLE, else empty."""


class RecordBatches(NamedTuple):
    """Batches decoded as far as the limits allowed. All arrays are the caller's own."""

    text: Bytes
    """Uncompressed payloads of the batches without a fault, one after the other. Read-only."""
    rows: Integers
    """One row per record, in the columns of `kernels.record_format`. Batches with a fault have a row per offset."""
    batch_of: Integers
    """Number of the batch that each row belongs to. Never descends."""
    faults: dict[int, BatchFault]
    """Faults by the number of their batch."""
    unread: Sequence[tuple[int, int]]
    """Number of each batch that is not decoded to its end, and the first offset still to read. In order."""

    def number_header_runs(self) -> form.Integers32:
        """Number the rows from 0, with one number for neighbours that have the same header bytes and the same flaw."""
        runs = np.empty(len(self.rows), np.int32)
        number_header_runs(self.text, self.rows, runs)
        return runs


class _Scratch(threading.local):
    """Memory that batches are uncompressed into. A thread keeps its own: fresh memory costs more than decompression."""

    KEPT_BYTES = 32 * 1024 * 1024

    def __init__(self) -> None:
        self._buffer = np.empty(0, np.uint8)

    def of_size(self, size: int) -> Bytes:
        """Return memory of this size, with undefined contents."""
        if len(self._buffer) < size:
            self._buffer = np.empty(size, np.uint8)
        return self._buffer[:size]

    def trim(self, used: int) -> None:
        """Drop the memory if more than KEPT_BYTES of it were used, which is rare; else keep it for the next call."""
        if used > self.KEPT_BYTES:
            self._buffer = np.empty(0, np.uint8)


_scratch = _Scratch()


def read_batches(batches: Sequence[tuple[memoryview, int]], limits: ReadLimits) -> RecordBatches:
    """Decode record batches of format 2, each with the first offset that is wanted of it.

    Decodes as many of them as the limits allow, and at least one row of the first. Each buffer holds one batch: its
    header of 61 bytes, then its payload. Shorter buffers raise struct.error; nothing else in them raises.

    Nothing outside the buffers is read, and no reference to them is kept. Besides the result, at most
    `limits.batch_bytes` are allocated per thread. Checksums are not verified, and control batches are decoded like
    others: Kafka clients verify checksums, and skip control batches.
    """
    table = np.empty((len(batches), form.BATCH_WIDTH), np.int64)
    details: dict[int, str] = {}
    scratch = memoryview(_scratch.of_size(limits.batch_bytes))  # type: ignore[arg-type]
    taken = end = spent = wanted = 0
    for number, (raw, first_wanted) in enumerate(batches):
        if spent >= limits.total_bytes:
            break
        header, start, fault = _HEADER.unpack_from(raw), end, 0
        try:
            end += decompress(header[5] & _CODEC, raw[_HEADER.size :], scratch[start:])
        except NoRoom:
            if start:  # it may fit into all of the scratch memory
                break
            fault = form.OVERSIZED
        except Undecodable as error:
            fault, details[number] = form.UNDECODABLE, str(error)
        spent += limits.total_bytes // _MOST_FAULTS if fault else end - start
        table[number] = _columns_of(header, first_wanted, start, end, fault)
        wanted += max(0, int(table[number, form.FOLLOWING] - table[number, form.WANTED]))
        taken = number + 1
    text = np.frombuffer(scratch[:end].tobytes(), np.uint8)
    _scratch.trim(len(scratch) if spent > end else end)
    table = table[:taken]
    rows = np.empty((min(wanted, limits.rows) + 1, form.WIDTH), np.int64)  # one more, for records that are not wanted
    count, found = form.read_records(text, table, rows, (limits.record_bytes, limits.record_headers, limits.headers))
    rows, batch_of = rows[:count], np.repeat(np.arange(taken), table[:, form.ROWS])
    faults: dict[int, BatchFault] = {}
    if found:
        for number in np.flatnonzero(table[:, form.FAULT]).tolist():
            code, base, following = table[number, [form.FAULT, form.BASE, form.FOLLOWING]].tolist()
            faults[number] = BatchFault(code, base, following - 1, details.get(number, ""))
        text = _without_faulty(text, table, rows, batch_of)
    cut_short = np.flatnonzero(table[:, form.NEXT] >= 0)
    unread = [*zip(cut_short.tolist(), table[cut_short, form.NEXT].tolist(), strict=True)]
    unread += [(number, batches[number][1]) for number in range(taken, len(batches))]
    return RecordBatches(text, rows, batch_of, faults, unread)


def _columns_of(header: tuple[int, ...], first_wanted: int, start: int, end: int, fault: int) -> tuple[int, ...]:
    base, _, _, _, _, attributes, last_delta, first_ms, highest_ms, _, _, _, count = header
    is_stamped = attributes & _LOG_APPEND_TIME
    if not fault and not 0 <= count <= min(last_delta + 1, (end - start) // _LEAST_RECORD_BYTES):
        fault = form.MISCOUNTED
    stamp_ms, wanted = highest_ms if is_stamped else first_ms, max(base, first_wanted)
    following = base + max(last_delta, 0) + 1
    return base, stamp_ms, is_stamped, count, last_delta, start, end, wanted, following, fault, 0, -1


def _without_faulty(text: Bytes, table: Integers, rows: Integers, batch_of: Integers) -> Bytes:
    """Drop the text of batches with a fault: few rows would keep much of it in memory."""
    sizes = table[:, form.END] - table[:, form.START]
    dropped = np.where(table[:, form.FAULT] != 0, sizes, 0)
    before = (np.cumsum(dropped) - dropped)[batch_of]
    is_read = table[batch_of, form.FAULT] == 0
    for column in (form.VALUE, form.KEY, form.HEADERS):
        rows[is_read, column] -= before[is_read]
    kept = [text[start:end] for start, end, fault in table[:, [form.START, form.END, form.FAULT]].tolist() if not fault]
    return np.frombuffer(b"".join(kept), np.uint8)  # type: ignore[arg-type]
