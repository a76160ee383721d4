"""Record batches made byte by byte, and a producer that sends them as they are.

Clients make well-formed batches only. A batch of this module says whatever its arguments say, with a right checksum.
"""

import asyncio
import struct
import time
from collections.abc import Sequence
from typing import NamedTuple, Self

from aiokafka.errors import KafkaError, NotLeaderForPartitionError, UnknownTopicOrPartitionError, for_code
from aiokafka.record.util import calc_crc32c

from runtime.whole_batches import WholeBatch

_UNTIL_CRC = struct.Struct(">qiibI")
_AFTER_CRC = struct.Struct(">hiqqqhii")
_MAGIC, _NO_PRODUCER = 2, -1
_PRODUCE, _PRODUCE_VERSION, _ALL_REPLICAS = 0, 7, -1
_TIMEOUT_MS = 120_000
_NO_LEADER_YET = NotLeaderForPartitionError, UnknownTopicOrPartitionError
_LEADER_TIMEOUT_S = 60

NULL = -1
"""Size that encodes null."""


class RawRecord(NamedTuple):
    """Raw record; None stands for the value of a regular client."""

    value: bytes | None = b"{}"
    key: bytes | None = b"k"
    headers: Sequence[tuple[bytes | None, bytes | None]] = ()
    delta: int | None = None
    """Offset in the batch."""
    ahead_ms: int = 0
    header_count: int | None = None
    size: int | None = None


def varint(number: int) -> bytes:
    """A number in zig-zag coding."""
    coded = (number << 1) ^ (number >> 63)
    raw = bytearray()
    while coded & ~0x7F:
        raw.append((coded & 0x7F) | 0x80)
        coded >>= 7
    raw.append(coded)
    return bytes(raw)


def _sized(raw: bytes | None) -> bytes:
    return varint(NULL) if raw is None else varint(len(raw)) + raw


def encode_records(records: Sequence[RawRecord]) -> bytes:
    """The payload of a batch, not compressed."""
    return b"".join(_encode_record(record, place) for place, record in enumerate(records))


def _encode_record(record: RawRecord, place: int) -> bytes:
    delta = place if record.delta is None else record.delta
    count = len(record.headers) if record.header_count is None else record.header_count
    headers = b"".join(_sized(name) + _sized(value) for name, value in record.headers)
    body = b"\0" + varint(record.ahead_ms) + varint(delta) + _sized(record.key) + _sized(record.value)
    body += varint(count) + headers
    return varint(len(body) if record.size is None else record.size) + body


def encode_batch(
    payload: bytes,
    count: int,
    *,
    last_delta: int | None = None,
    base: int = 0,
    attributes: int = 0,
    first_ms: int = 0,
    highest_ms: int = 0,
) -> bytes:
    """A batch with the right length and checksum; the lowest bits of the attributes are the codec's number."""
    last_delta = count - 1 if last_delta is None else last_delta
    after = _AFTER_CRC.pack(
        attributes, last_delta, first_ms, highest_ms, _NO_PRODUCER, _NO_PRODUCER, _NO_PRODUCER, count
    )
    after += payload
    length = _UNTIL_CRC.size - 12 + len(after)
    return _UNTIL_CRC.pack(base, length, _NO_PRODUCER, _MAGIC, calc_crc32c(after)) + after


def batch_of(records: Sequence[RawRecord]) -> bytes:
    """A batch that contradicts itself only where its records do."""
    return encode_batch(encode_records(records), len(records))


def whole(raw: bytes, wanted: int = 0) -> WholeBatch:
    """A batch as the client would hand it out."""
    (base,), (last_delta,) = struct.unpack_from(">q", raw), struct.unpack_from(">i", raw, 23)
    return WholeBatch(memoryview(raw), wanted, max(base + last_delta, base) + 1)


class BatchRefused(Exception):
    """The broker did not take a batch."""

    def __init__(self, error: type[KafkaError]) -> None:
        super().__init__(error.__name__)
        self.error = error


class RawProducer:
    """Connection to a broker that leads every partition."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._host, self._port = host, int(port)
        self._sent = 0
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()
        await self._writer.wait_closed()

    async def send(self, topic: str, partition: int, batch: bytes) -> int:
        """Put a batch on a partition; returns its first offset. Raises BatchRefused.

        Sent again while the broker does not lead the partition yet, which is new then.
        """
        give_up_at = time.monotonic() + _LEADER_TIMEOUT_S
        while True:
            try:
                return await self._send_once(topic, partition, batch)
            except BatchRefused as refused:
                if refused.error not in _NO_LEADER_YET or time.monotonic() > give_up_at:
                    raise
            await asyncio.sleep(0.05)

    async def _send_once(self, topic: str, partition: int, batch: bytes) -> int:
        self._sent += 1
        name = topic.encode()
        body = struct.pack(">hhih", _PRODUCE, _PRODUCE_VERSION, self._sent, NULL)
        body += struct.pack(">hhii", NULL, _ALL_REPLICAS, _TIMEOUT_MS, 1)
        body += struct.pack(">h", len(name)) + name + struct.pack(">iii", 1, partition, len(batch)) + batch
        self._writer.write(struct.pack(">i", len(body)) + body)
        await self._writer.drain()
        (size,) = struct.unpack(">i", await self._reader.readexactly(4))
        answer = await self._reader.readexactly(size)
        code, offset = struct.unpack_from(">hq", answer, 4 + 4 + 2 + len(name) + 4 + 4)
        if code:
            raise BatchRefused(for_code(code))
        return int(offset)
