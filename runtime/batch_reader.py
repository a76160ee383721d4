"""Kafka's batches, read into lines within bounds of memory, and what is wrong with those that cannot be read."""

import struct
import threading
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from aiokafka.errors import CorruptRecordException

from kernels import record_format as form
from kernels.decompression import NoRoom, Undecodable, decompress
from kernels.record_format import Bytes, Headers, Lines
from runtime.settings import MIB, Settings
from runtime.whole_batches import WholeBatch
from schemas.letter import MOST_LETTER_BYTES, MOST_LETTER_HEADERS
from schemas.rejection import Reason, Rejection

EVENT_BYTES = 2 * MIB
"""An event is smaller, whatever `TALLY_MAX_RECORD_BYTES` allows at most."""
MOST_HEADERS = 1_000
"""Headers that a record may have. In a batch one takes two bytes, in memory a hundred."""

_HEADER = struct.Struct(">qiibIhiqqqhii")
_CODEC, _LOG_APPEND_TIME = 0x07, 0x08
_LEAST_RECORD_BYTES = 7
_MOST_FAULTS = 8
"""Batches in one reading that cannot be decompressed: each may take as long as the largest one that can."""

_FLAWS = {
    form.MISPLACED: Rejection("bad_record", "offset", "names another offset than its place in its batch"),
    form.BAD_TIME: Rejection("bad_record", "timestamp", "lies outside 1970 to 2262"),
    form.LARGE: Rejection("too_large", "", "is larger than any event, uncompressed (TALLY_MAX_RECORD_BYTES)"),
    form.MANY_HEADERS: Rejection("bad_record", "headers", f"are more than {MOST_HEADERS:,}, and left out here"),
}
_BAD_HEADERS = Rejection("bad_record", "headers", "are not of Kafka's format, and left out here")
_FAULTS = {
    form.MALFORMED: "a record is not of Kafka's format",
    form.LEFT_OVER: "bytes are left after its last record",
    form.DISORDERED: "its records' offsets do not rise within the batch's own",
    form.MISCOUNTED: "it cannot have as many records as it states",
    form.UNDECODABLE: "it cannot be decompressed",
    form.OVERSIZED: "uncompressed it is larger than TALLY_BATCH_UNCOMPRESSED_BYTES",
}


class Limits(NamedTuple):
    """How much one reading may hold in memory. The rest is left for the next one."""

    batch_bytes: int = 64 * MIB
    """A batch that is larger, uncompressed, is not read."""
    record_bytes: int = EVENT_BYTES
    """A larger record is no event."""
    record_headers: int = MOST_HEADERS
    """A record with more of them is no event."""
    total_bytes: int = 16 * MIB
    """Once as many bytes are read, no further batch is."""
    lines: int = 65_536
    headers: int = 524_288

    @classmethod
    def of_events(cls, settings: Settings) -> "Limits":
        """The limits for reading the topic of events."""
        return cls(settings.batch_uncompressed_bytes, max(EVENT_BYTES, settings.max_record_bytes))

    @classmethod
    def of_letters(cls, settings: Settings) -> "Limits":
        """The limits for reading the dead-letter topic: a letter is a whole record of that size, and why."""
        most_bytes = settings.batch_uncompressed_bytes + MOST_LETTER_BYTES
        return cls(most_bytes, most_bytes, MOST_HEADERS + MOST_LETTER_HEADERS)


class Reading(NamedTuple):
    """Some batches, read as far as the limits allowed."""

    text: Bytes
    """The batches' uncompressed bytes, one after the other."""
    lines: Lines
    """One for each record that was asked for."""
    batch_of: npt.NDArray[np.int64]
    """The number of the batch that each line is of."""
    unreadable: dict[int, Rejection]
    """By number of a batch that cannot be read, why."""
    rest: Sequence[WholeBatch]
    """Batches that were not read, the first of them perhaps in part."""

    def headers_of(self, place: int, coded: int) -> tuple[Headers, Rejection | None]:
        """The headers that a line's two columns stand for, and what is wrong with their record."""
        flaw = coded >> form.FLAW_SHIFT
        if flaw == form.UNREAD:
            return (), self.unreadable[place]
        if flaw == form.MANY_HEADERS:
            return (), _FLAWS[flaw]
        try:
            return form.read_headers(self.text[place : place + (coded & form.SIZE)].tobytes()), _FLAWS.get(flaw)
        except CorruptRecordException:
            return (), _BAD_HEADERS


class _Room(threading.local):
    """Memory that batches are uncompressed into. A thread keeps its own: fresh memory costs more than decompression."""

    KEPT_BYTES = 32 * MIB

    def __init__(self) -> None:
        self._buffer = np.empty(0, np.uint8)

    def of(self, size: int) -> Bytes:
        """Memory of this size."""
        if len(self._buffer) < size:
            self._buffer = np.empty(size, np.uint8)
        return self._buffer[:size]

    def give_back(self, used: int) -> None:
        """Keep the memory, unless much of it was used: that is rare."""
        if used > self.KEPT_BYTES:
            self._buffer = np.empty(0, np.uint8)


_room = _Room()
_LIMITS = Limits()


def read_batches(batches: Sequence[WholeBatch], limits: Limits = _LIMITS) -> Reading:
    """Read as many of the batches as the limits allow: of the first at least one record."""
    table = np.empty((len(batches), form.BATCH_WIDTH), np.int64)
    unreadable: dict[int, Rejection] = {}
    room = memoryview(_room.of(limits.batch_bytes))  # type: ignore[arg-type]
    taken = end = spent = wanted = 0
    for number, batch in enumerate(batches):
        if spent >= limits.total_bytes:
            break
        header, begin, fault, why = _HEADER.unpack_from(batch.raw), end, 0, ""
        try:
            end += decompress(header[5] & _CODEC, batch.raw[_HEADER.size :], room[begin:])
        except NoRoom:
            if begin:  # it may fit into all of the room
                break
            fault = form.OVERSIZED
        except Undecodable as error:
            fault, why = form.UNDECODABLE, f" ({error})"
        spent += limits.total_bytes // _MOST_FAULTS if fault else end - begin
        table[number] = _columns_of(batch, header, begin, end, fault)
        wanted += max(0, int(table[number, form.FOLLOWING] - table[number, form.WANTED]))
        if fault:
            unreadable[number] = _unreadable(table[number], why)
        taken = number + 1
    text = np.frombuffer(room[:end].tobytes(), np.uint8)
    _room.give_back(len(room) if spent > end else end)
    table = table[:taken]
    lines = np.empty((min(wanted, limits.lines) + 1, form.WIDTH), np.int64)  # one more, for records that are not wanted
    count, faults = form.read_records(text, table, lines, (limits.record_bytes, limits.record_headers, limits.headers))
    lines, batch_of = lines[:count], np.repeat(np.arange(taken), table[:, form.LINES])
    if faults:
        for number in np.flatnonzero(table[:, form.FAULT]).tolist():
            unreadable.setdefault(number, _unreadable(table[number], ""))
        text = _without_unreadable(text, table, lines, batch_of)
    rest = list(batches[taken:])
    if taken and table[-1, form.NEXT] >= 0:
        for number in np.flatnonzero(table[:, form.NEXT] >= 0).tolist()[::-1]:
            rest.insert(0, batches[number]._replace(offset=int(table[number, form.NEXT])))
    return Reading(text, lines, batch_of, unreadable, rest)


def _columns_of(batch: WholeBatch, header: tuple[int, ...], begin: int, end: int, fault: int) -> tuple[int, ...]:
    base, _, _, _, _, attributes, last_delta, first_ms, highest_ms, _, _, _, count = header
    is_stamped = attributes & _LOG_APPEND_TIME
    if not fault and not 0 <= count <= min(last_delta + 1, (end - begin) // _LEAST_RECORD_BYTES):
        fault = form.MISCOUNTED
    stamp_ms, wanted = highest_ms if is_stamped else first_ms, max(base, batch.offset)
    following = base + max(last_delta, 0) + 1
    return base, stamp_ms, is_stamped, count, last_delta, begin, end, wanted, following, fault, 0, -1


def _without_unreadable(text: Bytes, table: Lines, lines: Lines, batch_of: Lines) -> Bytes:
    """Drop the text of batches that cannot be read: few lines would keep much of it in memory."""
    sizes = table[:, form.END] - table[:, form.BEGIN]
    dropped = np.where(table[:, form.FAULT] != 0, sizes, 0)
    before = (np.cumsum(dropped) - dropped)[batch_of]
    is_read = table[batch_of, form.FAULT] == 0
    for column in (form.VALUE, form.KEY, form.HEADERS):
        lines[is_read, column] -= before[is_read]
    kept = [text[begin:end] for begin, end, fault in table[:, [form.BEGIN, form.END, form.FAULT]].tolist() if not fault]
    return np.frombuffer(b"".join(kept), np.uint8)  # type: ignore[arg-type]


def _unreadable(columns: Lines, why: str) -> Rejection:
    fault, first, last = int(columns[form.FAULT]), columns[form.BASE], columns[form.FOLLOWING] - 1
    reason: Reason = "batch_too_large" if fault == form.OVERSIZED else "bad_batch"
    return Rejection(reason, "", f"the batch of offsets {first} to {last} cannot be read: {_FAULTS[fault]}{why}")
