"""Ranges of a partition's log: its records as they are fetched, and the headers of its record batches.

The headers tell the content of offsets, without decompression.

Each batch covers a range of offsets. A producer's batch has a record at each of them; brokers refuse others. A control
batch holds a transaction marker. Compaction removes records from batches, and whole batches.
"""

import struct
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from runtime import whole_batches
from runtime.errors import Unavailable
from runtime.faults.kafka import kafka_fault
from runtime.kafka import Record
from runtime.kafka_connection import log_client
from runtime.settings import Settings
from runtime.whole_batches import WholeBatch

_HEADER = struct.Struct(">qiibIhiqqqhii")
_CONTROL = 0x20
_FETCH_BYTES, _PARTITION_FETCH_BYTES = 1024 * 1024, 64 * 1024
"""Small fetches: only headers are needed, and a client prefetches."""
_SILENCE_TIMEOUT_MS = 4_000
POLL_MS = 500

Items = Sequence[WholeBatch | Record]
"""Fetched from one partition: whole batches, or records with another version of the client."""


class LogBatch(NamedTuple):
    """Header of a record batch with the offsets from `first` up to, excluding, `end`."""

    first: int
    end: int
    records: int
    is_control: bool
    last_append_ms: int

    @property
    def is_whole(self) -> bool:
        """Whether the batch has a record at each of its offsets."""
        return self.records == self.end - self.first


def _parse_batch(item: Any) -> LogBatch:
    """Parse a batch header. A single record, from a client version without whole batches, is a batch of one."""
    if not isinstance(item, WholeBatch):
        return LogBatch(item.offset, item.offset + 1, 1, False, item.timestamp)
    first, *_, attributes, last, _, highest_ms, _, _, _, records = _HEADER.unpack_from(item.raw)
    return LogBatch(first, first + max(last, 0) + 1, records, bool(attributes & _CONTROL), highest_ms)


def batch_reader(settings: Settings, *, everything: bool = False) -> AbstractAsyncContextManager[AIOKafkaConsumer]:
    """Open a client outside any group that returns whole batches: of committed records, or of `everything`."""
    return log_client(
        settings,
        "read_uncommitted" if everything else "read_committed",
        key_deserializer=whole_batches.every if everything else whole_batches.whole,
        fetch_max_bytes=_FETCH_BYTES,
        max_partition_fetch_bytes=_PARTITION_FETCH_BYTES,
    )


async def read_items(
    client: AIOKafkaConsumer, place: TopicPartition, first: int, end: int, *, patience_ms: int
) -> AsyncGenerator[Items, None]:
    """Yield the batches or records with offsets from `first` up to, excluding, `end`, as they are fetched.

    The client is assigned the partition. Raises Unavailable when nothing arrives for about `patience_ms`, because the
    client itself waits without an error.
    """
    client.seek(place, first)
    silent_ms = 0
    try:
        while await client.position(place) < end:
            found: Any = (await client.getmany(place, timeout_ms=POLL_MS)).get(place, ())
            silent_ms = 0 if found else silent_ms + POLL_MS
            if silent_ms >= patience_ms:
                raise Unavailable(
                    f"Kafka (TALLY_KAFKA) returns no records of {place.topic}/{place.partition} from offset {first}"
                )
            if found:
                yield found
    except KafkaError as error:
        raise kafka_fault(error, f"reading {place.topic}/{place.partition}") from error


async def batches_in(
    client: AIOKafkaConsumer, place: TopicPartition, first: int, end: int
) -> AsyncGenerator[LogBatch, None]:
    """Yield the batches with offsets from `first` up to, excluding, `end`. Raises Unavailable and Fatal."""
    client.assign([place])
    async with aclosing(read_items(client, place, first, end, patience_ms=_SILENCE_TIMEOUT_MS)) as fetched:
        async for items in fetched:
            for item in items:
                if item.offset < end:
                    yield _parse_batch(item)


async def find_first_waiting(settings: Settings, asked: Mapping[int, tuple[int, int]]) -> dict[int, LogBatch | None]:
    """Find, per partition, the first batch with records in a range of offsets (first, end).

    A batch in or after an open transaction counts, too. None means that the range holds only markers and aborted
    records. A partition that cannot be read is missing from the result. Raises Unavailable when no broker answers.
    """
    left = {TopicPartition(settings.topic, partition): each for partition, each in asked.items()}
    async with batch_reader(settings) as client:
        found, undecided = await _first_committed(client, left)
    if undecided:
        async with batch_reader(settings, everything=True) as client:
            for place, (first, end) in undecided.items():
                async with aclosing(batches_in(client, place, first, end)) as batches:
                    async for batch in batches:
                        if not batch.is_control:
                            found[place.partition] = batch._replace(first=max(first, batch.first))
                            break
    return found


_OffsetRanges = dict[TopicPartition, tuple[int, int]]


async def _first_committed(
    client: AIOKafkaConsumer, left: _OffsetRanges
) -> tuple[dict[int, LogBatch | None], _OffsetRanges]:
    """Find the first batches of committed records. Also return the ranges that begin in an open transaction."""
    found: dict[int, LogBatch | None] = {}
    undecided: _OffsetRanges = {}
    try:
        stable = await client.end_offsets(list(left))
    except KafkaError as error:
        raise kafka_fault(error, "asking for offsets") from error
    client.assign(list(left))
    for place, (first, _) in left.items():
        client.seek(place, first)
    silent_ms = 0
    while left and silent_ms < _SILENCE_TIMEOUT_MS:
        try:
            fetched: Any = await client.getmany(*left, timeout_ms=POLL_MS)
        except KafkaError:
            break
        silent_ms = 0 if fetched else silent_ms + POLL_MS
        for place, (first, end) in list(left.items()):
            batches = [each for each in map(_parse_batch, fetched.get(place, ())) if each.records and each.first < end]
            position = await client.position(place)
            if batches:
                found[place.partition] = batches[0]._replace(first=max(first, batches[0].first))
            elif position >= end:
                found[place.partition] = None
            elif position >= stable[place]:
                undecided[place] = position, end
            else:
                continue
            del left[place]
            client.pause(place)
    return found, undecided
