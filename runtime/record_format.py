"""Kafka's record format 2 (https://kafka.apache.org/documentation/#recordbatch), read many batches at a time."""

import struct
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from aiokafka.codec import gzip_decode, lz4_decode, snappy_decode, zstd_decode
from aiokafka.errors import CorruptRecordException, UnsupportedCodecError

from runtime.whole_batches import WholeBatch
from schemas.compiled import compiled

Bytes = npt.NDArray[np.uint8]
Lines = npt.NDArray[np.int64]
Headers = tuple[tuple[str, bytes | None], ...]

OFFSET, APPEND_MS, VALUE, KEY, HEADERS = 0, 1, 2, 4, 6
"""Columns of a line. The last three have a first byte's place and, in the next column, a size; -1: null."""
WIDTH = 8

_HEADER = struct.Struct(">qiibIhiqqqhii")
_CODEC, _LOG_APPEND_TIME = 0x07, 0x08
_DECODERS: dict[int, Callable[[memoryview], bytes]] = {
    0: bytes,
    1: gzip_decode,
    2: snappy_decode,
    3: lz4_decode,
    4: zstd_decode,
}


def read_batches(batches: Sequence[WholeBatch]) -> tuple[Bytes, Lines, npt.NDArray[np.int64]]:
    """The batches' uncompressed bytes, one behind the other, and a line for each record that was asked for.

    The last is the batch that each line is of. Raises aiokafka's KafkaError for what cannot be read.
    """
    payloads, table = [], np.empty((len(batches), 5), np.int64)
    end = 0
    for number, batch in enumerate(batches):
        base, _, _, _, _, attributes, _, first_ms, highest_ms, _, _, _, count = _HEADER.unpack_from(batch.raw)
        payload = _decompressed(attributes & _CODEC, batch.raw[_HEADER.size :])
        end += len(payload)
        payloads.append(payload)
        table[number] = base, highest_ms if attributes & _LOG_APPEND_TIME else first_ms, count, end, attributes
    text = np.frombuffer(b"".join(payloads), np.uint8)
    lines = np.empty((int(table[:, 2].sum()), WIDTH), np.int64)
    if not _read_records(text, table, lines):
        raise CorruptRecordException(f"a batch from offset {batches[0].offset} on is not of Kafka's format")
    batch_of = np.repeat(np.arange(len(batches)), table[:, 2])
    wanted = np.array([batch.offset for batch in batches], np.int64)
    asked = lines[:, OFFSET] >= wanted[batch_of]
    return (text, lines, batch_of) if asked.all() else (text, lines[asked], batch_of[asked])


def _decompressed(codec: int, raw: memoryview) -> bytes:
    if codec not in _DECODERS:
        raise UnsupportedCodecError(f"a batch is compressed in a way ({codec}) that this client cannot read")
    try:
        return _DECODERS[codec](raw)
    except Exception as error:  # each codec has its own
        raise CorruptRecordException(f"a batch cannot be uncompressed: {error}") from error


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
            return (value >> 1) ^ -(value & 1), at
    return 0, -1


@compiled
def _read_records(text: Bytes, table: Lines, lines: Lines) -> bool:
    at, line = 0, 0
    for number in range(len(table)):
        end = table[number, 3]
        for _ in range(table[number, 2]):
            at = _read_record(text, at, end, table[number], lines[line])
            if at < 0:
                return False
            line += 1
        if at != end:
            return False
    return True


@compiled
def _read_record(text: Bytes, at: int, end: int, batch: npt.NDArray[np.int64], line: npt.NDArray[np.int64]) -> int:
    """Fill in a line; answers where the record ends, or -1."""
    size, at = _read_varint(text, at, end)
    behind = at + size
    if at < 0 or size < 1 or behind > end:
        return -1
    ahead_ms, at = _read_varint(text, at + 1, behind)  # a byte of attributes, unused
    if at < 0:
        return -1
    later, at = _read_varint(text, at, behind)
    if at < 0:
        return -1
    line[OFFSET] = batch[0] + later
    line[APPEND_MS] = batch[1] if batch[4] & _LOG_APPEND_TIME else batch[1] + ahead_ms
    for column in (KEY, VALUE):
        size, at = _read_varint(text, at, behind)
        if at < 0 or size > behind - at:
            return -1
        line[column], line[column + 1] = at, max(size, -1)
        at += max(size, 0)
    line[HEADERS], line[HEADERS + 1] = at, behind - at
    return behind


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
def _is_same(text: Bytes, one: npt.NDArray[np.int64], other: npt.NDArray[np.int64]) -> bool:
    if one[HEADERS + 1] != other[HEADERS + 1]:
        return False
    for i in range(one[HEADERS + 1]):
        if text[one[HEADERS] + i] != text[other[HEADERS] + i]:
            return False
    return True


def read_headers(raw: bytes) -> Headers:
    """The headers of a record. Raises UnicodeDecodeError for a name that is not UTF-8, and CorruptRecordException."""
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
        headers.append(((name or b"").decode(), value))
    return tuple(headers)
