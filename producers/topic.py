"""Writer of records to the topic, with their acknowledgements."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import cache, partial
from typing import Any, NamedTuple, Self

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    InvalidTopicError,
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
)
from aiokafka.partitioner import murmur2
from aiokafka.producer.message_accumulator import BatchBuilder

from runtime import kafka
from runtime.errors import RecordRefused, TallyError, Unavailable, reason_of
from runtime.settings import Settings
from runtime.tasks import start

_REFUSALS = (
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
    InvalidTopicError,
)


_CLIENT_SURVIVES = (KafkaTimeoutError, MessageSizeTooLargeError, TopicAuthorizationFailedError, InvalidTopicError)
"""Errors, besides retriable ones, after which the client still works: it refused a record before numbering it."""
_SMALL_BYTES = 64 * 1024
"""Size that no topic refuses, unless it is being expanded and accepts no records (`tally topic expand`)."""
_OVERHEAD_BYTES = 1_024
"""Bound of a record's framing and headers in bytes: names and values of Tally's headers are shorter."""


def partition_of(key: bytes, partitions: int) -> int:
    """Return a key's partition as Kafka's Java client does: its murmur2 without the sign bit, modulo `partitions`."""
    return int(murmur2(key) & 0x7FFFFFFF) % partitions


class OutgoingRecord(NamedTuple):
    """Record to put on the topic, with its event's id."""

    interaction_id: str
    key: bytes
    value: bytes
    headers: Sequence[tuple[str, bytes]]


class RecordMetadata(NamedTuple):
    """Position of an acknowledged record, and its append time in ms since 1970."""

    partition: int
    offset: int
    append_ms: int


class PendingRecord(NamedTuple):
    """Record that is sent and not acknowledged yet. `deadline` is in the event loop's time."""

    future: "asyncio.Future[Any]"
    deadline: float
    client: AIOKafkaProducer
    nbytes: int


class _PartitionBatch(NamedTuple):
    """Record batch of one partition, with the indexes of its records in the request."""

    partition: int
    builder: BatchBuilder
    indexes: list[int]
    sizes: list[int]

    def add(self, number: int, record: OutgoingRecord) -> bool:
        """Add a record, and return whether it fits. The first record always does."""
        key, value, headers = record.key, record.value, list(record.headers)
        if self.builder.append(timestamp=None, key=key, value=value, headers=headers) is None:
            return False
        self.indexes.append(number)
        self.sizes.append(len(key) + len(value))
        return True


class ProducerClients:
    """Kafka producers, each of which replaces the one before. Closing waits for unsent records of the last one."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._open = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self._open.aclose()

    async def open_next(self) -> AIOKafkaProducer:
        """Open a client, and close the previous one in the background. Raises Unavailable and Fatal."""
        fresh = AsyncExitStack()
        client = await fresh.enter_async_context(kafka.producer(self._settings))
        before, self._open = self._open, fresh
        fresh.push_async_callback(asyncio.wait, [start(before.aclose(), "closing a Kafka producer")])
        return client


class TopicWriter:
    """Writer of one topic. `timeout_ms` bounds the wait for an acknowledgement, `max_bytes` the size of a record."""

    def __init__(self, client: AIOKafkaProducer, name: str, timeout_ms: int, max_bytes: int) -> None:
        self._client = client
        self._name = name
        self._timeout_ms = timeout_ms
        self._max_bytes = max_bytes
        self._partition_locks: dict[int, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.broken: AIOKafkaProducer | None = None
        """Client that cannot write any more: its sequence numbers have a gap, or its sender task has ended."""

    def use_client(self, client: AIOKafkaProducer) -> None:
        """Replace the client."""
        self._client, self.broken = client, None

    async def check(self) -> None:
        """Raise Unavailable unless a broker answers and the client can write."""
        try:
            if self.broken is not None or not await self._client.client.force_metadata_update():
                raise Unavailable("Kafka (TALLY_KAFKA) does not answer")
        except KafkaError as error:
            raise Unavailable(f"Kafka (TALLY_KAFKA): {reason_of(error)}") from error

    async def put_all(self, records: Sequence[OutgoingRecord]) -> Sequence[TallyError | None]:
        """Put many records on the topic, and return an error or None for each once all are acknowledged or failed.

        They are sent as whole record batches: a future per record would cost more than all other work.
        """
        deadline = asyncio.get_running_loop().time() + self._timeout_ms / 1000
        found: list[TallyError | None] = [None] * len(records)
        try:
            async with asyncio.timeout_at(deadline):
                partitions = len(await self._client.partitions_for(self._name))
        except (KafkaError, TimeoutError) as error:
            return [self._fault(error)] * len(records)
        batches: list[_PartitionBatch] = []
        open_: dict[int, _PartitionBatch] = {}
        partition_for = cache(partial(partition_of, partitions=partitions))
        for number, record in enumerate(records):
            if len(record.value) + len(record.key) + _OVERHEAD_BYTES > self._max_bytes:
                # The client checks single records only, and fails for good once a broker refuses a batch.
                found[number] = RecordRefused(f"the record is larger than {self._max_bytes} bytes")
                continue
            partition = partition_for(record.key)
            if partition not in open_ or not open_[partition].add(number, record):
                open_[partition] = _PartitionBatch(partition, self._client.create_batch(), [], [])
                open_[partition].add(number, record)
                batches.append(open_[partition])
        faults = await asyncio.gather(*(self._put(batch, deadline) for batch in batches))
        for batch, fault in zip(batches, faults, strict=True):
            for number in batch.indexes if fault else ():
                found[number] = fault
        return found

    async def _put(self, batch: "_PartitionBatch", deadline: float) -> TallyError | None:
        client = self._client
        try:
            async with asyncio.timeout_at(deadline):
                batch.builder.close()
                # Batches are sent one at a time: the client fails half of many that wait for buffer space.
                async with self._partition_locks[batch.partition]:
                    sent = await client.send_batch(batch.builder, self._name, partition=batch.partition)
                await sent
        except (KafkaError, TimeoutError) as error:
            return self._fault(error, client, max(batch.sizes))
        except (AssertionError, TypeError) as error:  # the client does not know the partition now
            return self._fault(error)
        return None

    def _fault(self, error: Exception, client: AIOKafkaProducer | None = None, nbytes: int = 0) -> TallyError:
        """Translate a send error of a record or batch of `nbytes`, and mark its `client` as broken if it is."""
        if isinstance(error, MessageSizeTooLargeError) and 0 < nbytes <= _SMALL_BYTES:
            self.broken = client if client is self._client else self.broken  # it numbers the refused record
            return Unavailable(
                f"topic {self._name} accepts no records: it is being expanded, or its max.message.bytes is far too low"
            )
        survives = isinstance(error, _CLIENT_SURVIVES) or getattr(error, "retriable", False)
        if client is self._client and isinstance(error, KafkaError) and not survives:
            self.broken = client
        if isinstance(error, _REFUSALS):
            return RecordRefused(f"Kafka refused the record: {reason_of(error)}")
        # The timeout is Tally's: an idempotent producer never drops a batch, and would wait for ever.
        return Unavailable(f"Kafka (TALLY_KAFKA) did not acknowledge within {self._timeout_ms} ms: {reason_of(error)}")

    async def put(self, record: OutgoingRecord) -> RecordMetadata:
        """Put one record on the topic and wait for its acknowledgement. Raises like `wait_acknowledged`."""
        return await self.wait_acknowledged(await self.send(record))

    async def send(self, record: OutgoingRecord) -> PendingRecord:
        """Pass a record to the client. An immediate refusal becomes the future's exception, like a late one."""
        value, key, headers, client = record.value, record.key, list(record.headers), self._client
        deadline = asyncio.get_running_loop().time() + self._timeout_ms / 1000
        try:
            async with asyncio.timeout_at(deadline):
                future = await client.send(self._name, value=value, key=key, headers=headers)
        except (KafkaError, TimeoutError) as error:
            future = asyncio.get_running_loop().create_future()
            future.set_exception(error)
        return PendingRecord(future, deadline, client, len(key) + len(value))

    async def wait_acknowledged(self, sent: PendingRecord) -> RecordMetadata:
        """Wait until Kafka has the record on all in-sync replicas.

        Raises RecordRefused when Kafka will never accept it, and Unavailable without an acknowledgement in time, after
        which it may still arrive.
        """
        try:
            async with asyncio.timeout_at(sent.deadline):
                stored = await asyncio.shield(sent.future)
        except (KafkaError, TimeoutError) as error:
            raise self._fault(error, sent.client, sent.nbytes) from error
        return RecordMetadata(stored.partition, stored.offset, stored.timestamp)
