"""Record batches, and their way into the Kafka client.

aiokafka's public way costs a task for each batch, and compresses with lz4 at level 9: 2.5 us an event of 500 bytes,
where level 0 takes 0.2 us for a third more bytes. So batches are compressed here, and queued with the client's own
accumulator. Both are private to aiokafka, and of the version WRITTEN_FOR alone. With another version batches take the
public way, with a warning and a gauge.
"""

import asyncio
import copy
import logging
import struct
import time
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, cast

from aiokafka import AIOKafkaProducer, TopicPartition, __version__
from aiokafka.codec import lz4_encode
from aiokafka.errors import ProducerClosed
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.util import calc_crc32c

from runtime.kafka import PRODUCER_BATCH_BYTES
from runtime.metrics import DIRECT_BATCHES

if TYPE_CHECKING:
    from kernels.boundary import EncodedRecords  # a core installation has no compiler

WRITTEN_FOR = "0.14."
LZ4_LEVEL = 0

# Format 2 of a record batch, https://kafka.apache.org/documentation/#recordbatch: positions in its header.
_LENGTH_AT, _CRC_AT, _ATTRIBUTES_AT, _HEADER_BYTES = 8, 17, 21, 61
_BEFORE_LENGTH = _LENGTH_AT + 4
_HEADER = struct.Struct(">qiibIhiqqqhii")
_NO_CODEC, _LZ4 = 0, 3
_VARINT_MORE = 0x80

log = logging.getLogger("tally.kafka")


class CompressedBatch(BatchBuilder):
    """Batch under construction that is compressed once, fast, when it is sent."""

    def __init__(self) -> None:
        super().__init__(PRODUCER_BATCH_BYTES, _NO_CODEC)  # type: ignore[no-untyped-call]

    def add(self, time_ms: int, key: bytes, value: bytes, headers: Sequence[tuple[str, bytes]]) -> bool:
        """Append a record at half the cost of `append`, to a batch that is not closed. Return whether it had room."""
        if self._builder.append(self._relative_offset, time_ms, key, value, cast(Any, headers)) is None:
            return False
        self._relative_offset += 1
        return True

    def _build(self) -> Any:
        if self._buffer is None:
            self._buffer = compress(bytes(super()._build()))  # type: ignore[no-untyped-call]
        return self._buffer


class EncodedBatch(BatchBuilder):
    """Batch of records that are encoded already."""

    def __init__(self, encoded: "EncodedRecords", number: int) -> None:
        super().__init__(PRODUCER_BATCH_BYTES, _NO_CODEC)  # type: ignore[no-untyped-call]
        self._records = encoded.encoded[encoded.ends[number] : encoded.ends[number + 1]]
        self._relative_offset = int((encoded.batch_of == number).sum())
        self._producer = (-1, -1, -1)
        self._closed = True

    def _set_producer_state(self, producer_id: int, producer_epoch: int, base_sequence: int) -> None:
        self._producer = producer_id, producer_epoch, base_sequence

    def _build(self) -> Any:
        if self._buffer is None:
            self._buffer = self.built(*self._producer)
        return self._buffer

    def built(self, producer_id: int, producer_epoch: int, base_sequence: int) -> bytes:
        """Return the batch with its header. Its time is now; the broker replaces it by the append time."""
        now_ms, count = time.time_ns() // 1_000_000, self._relative_offset
        header = _HEADER.pack(
            0, 0, -1, 2, 0, 0, count - 1, now_ms, now_ms, producer_id, producer_epoch, base_sequence, count
        )
        return compress(header + self._records.tobytes())


def compress(batch: bytes) -> bytes:
    """Return an uncompressed batch of format 2 with its records compressed by lz4, and with length and checksum.

    Records stay uncompressed if that saves nothing.
    """
    records, codec = lz4_encode(batch[_HEADER_BYTES:], level=LZ4_LEVEL), _LZ4
    if len(records) >= len(batch) - _HEADER_BYTES:
        records, codec = batch[_HEADER_BYTES:], _NO_CODEC
    attributes = int.from_bytes(batch[_ATTRIBUTES_AT : _ATTRIBUTES_AT + 2], "big") | codec
    checked = struct.pack(">h", attributes) + batch[_ATTRIBUTES_AT + 2 : _HEADER_BYTES] + records
    length = _HEADER_BYTES - _BEFORE_LENGTH + len(records)
    before = batch[:_LENGTH_AT] + struct.pack(">i", length) + batch[_BEFORE_LENGTH:_CRC_AT]
    return before + struct.pack(">I", calc_crc32c(checked)) + checked


def encode_header_fields(headers: Sequence[tuple[str, bytes]]) -> bytes:
    """Encode the headers of a record, with their count. Names and values are shorter than 8 KiB."""
    parts = [_varint(len(headers))]
    for name, value in headers:
        for text in (name.encode(), value):
            parts += [_varint(len(text)), text]
    return b"".join(parts)


def _varint(number: int) -> bytes:
    """Encode a number from 0 to 8,191 as zigzag varint."""
    doubled = 2 * number
    return bytes([doubled]) if doubled < _VARINT_MORE else bytes([doubled & 0x7F | _VARINT_MORE, doubled >> 7])


def _queue_directly(client: AIOKafkaProducer, batch: BatchBuilder, place: TopicPartition) -> "asyncio.Future[Any]":
    accumulator: Any = client._message_accumulator
    if accumulator._closed:
        raise ProducerClosed
    if accumulator._exception is not None:
        raise copy.copy(accumulator._exception)
    future: asyncio.Future[Any] = accumulator._append_batch(batch, place).future
    return future


def _queue_publicly(client: AIOKafkaProducer, batch: BatchBuilder, place: TopicPartition) -> "asyncio.Future[Any]":
    async def send() -> Any:
        return await (await client.send_batch(batch, place.topic, partition=place.partition))

    return asyncio.create_task(send())


def new_batch(client: AIOKafkaProducer) -> BatchBuilder:
    """Return an empty batch for a client."""
    return CompressedBatch() if is_known() else client.create_batch()


def append(batch: BatchBuilder, time_ms: int, key: bytes, value: bytes, headers: Sequence[tuple[str, bytes]]) -> bool:
    """Append a record to a batch of `new_batch`. Return whether the batch had room."""
    if isinstance(batch, CompressedBatch):
        return batch.add(time_ms, key, value, headers)
    return batch.append(timestamp=time_ms, key=key, value=value, headers=headers) is not None


def queue(client: AIOKafkaProducer, batch: BatchBuilder, place: TopicPartition) -> "asyncio.Future[Any]":
    """Queue a batch with its client. Returns the future of its acknowledgement. Raises KafkaError."""
    return (_queue_directly if is_known() else _queue_publicly)(client, batch, place)


@cache
def is_known() -> bool:
    """Return whether batches are queued directly, which encoded ones need. Warns once if not."""
    known = __version__.startswith(WRITTEN_FOR)
    DIRECT_BATCHES.set(known)
    if not known:
        log.warning(
            "aiokafka %s is unknown: record batches are sent its public way, at more CPU. Install aiokafka %sx",
            __version__,
            WRITTEN_FOR,
        )
    return known
