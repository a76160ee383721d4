"""Records on their way to Kafka: packed into a batch for each partition, each batch with one outcome."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.producer.message_accumulator import BatchBuilder

from producers import batches
from producers.partitions import key_hash
from runtime.errors import RecordRefused, TallyError

if TYPE_CHECKING:
    from kernels.boundary import EncodedRecords

SMALL_BYTES = 64 * 1024
"""Size that no topic refuses, unless it is being expanded and accepts no records (`tally topic expand`). A larger
record is a batch of its own, so a broker that refuses it refuses no other record."""
_OVERHEAD_BYTES = 1_024
"""Bound of a record's framing and headers in bytes: names and values of Tally's headers are shorter."""


class OutgoingRecord(msgspec.Struct, frozen=True, gc=False):
    """Record to put on the topic, with its event's id. Making a struct takes a third of the time of a named tuple."""

    interaction_id: str
    key: bytes
    value: bytes
    headers: Sequence[tuple[str, bytes]]


class RecordMetadata(NamedTuple):
    """Position of an acknowledged record, and its append time in ms since 1970.

    `offset` is None in one case: a batch was sent again, and the broker knows it but not its offset any more.
    """

    partition: int
    offset: int | None
    append_ms: int


class BatchMetadata(NamedTuple):
    """Offset of the first record of an acknowledged batch, if known, and the append time of all in ms since 1970."""

    offset: int | None
    append_ms: int


@dataclass(slots=True, eq=False)
class Delivery:
    """Record batch of one partition, on its way. `outcome` becomes its metadata, or an error as a value."""

    partition: int
    builder: BatchBuilder
    deadline: float
    """Time of the event loop after which the batch has failed. If it was sent, it may still arrive."""
    outcome: "asyncio.Future[BatchMetadata | TallyError]"
    records: int = 0
    is_large: bool = False
    """Whether it holds one record of more than SMALL_BYTES."""
    is_sent: bool = False

    async def settled(self) -> None:
        """Wait for the outcome. A cancelled caller does not cancel the outcome, which others wait for, too."""
        if not self.outcome.done():
            await asyncio.wait([self.outcome])

    def settle(self, outcome: BatchMetadata | TallyError) -> None:
        """Set the outcome, unless there is one."""
        if not self.outcome.done():
            self.outcome.set_result(outcome)


class Placed(msgspec.Struct, frozen=True):
    """Record in a batch: the batch, and the record's number in it."""

    delivery: Delivery
    number: int

    def result(self) -> "RecordMetadata | TallyError":
        """Return the record's position, or its error. The batch's outcome must be done."""
        outcome = self.delivery.outcome.result()
        if isinstance(outcome, TallyError):
            return outcome
        offset = None if outcome.offset is None else outcome.offset + self.number
        return RecordMetadata(self.delivery.partition, offset, outcome.append_ms)


class Packing:
    """Batches of one round under construction, at most one open batch for each partition."""

    def __init__(self, client: AIOKafkaProducer, partitions: int, deadline: float, max_bytes: int) -> None:
        self._client = client
        self._partitions = partitions
        self._deadline = deadline
        self._max_bytes = max_bytes
        self._open: dict[int, Delivery] = {}
        self._done: list[Delivery] = []
        self.records = 0
        """Number of records since the last `take`."""

    def take(self) -> list[Delivery]:
        """Return the batches in the order in which they were begun, and begin new ones."""
        taken, self._done, self._open, self.records = self._done, [], {}, 0
        return taken

    def place_all(self, records: Sequence[OutgoingRecord]) -> list[Placed | TallyError]:
        """Add records to batches of their partitions. Return the place of each, or why it is too large."""
        placed, now_ms = list[Placed | TallyError](), time.time_ns() // 1_000_000
        for record in records:
            key, value, headers = record.key, record.value, record.headers
            size = len(key) + len(value)
            if size > SMALL_BYTES:
                placed.append(self._place_large(record, size))
                continue
            partition = key_hash(key) % self._partitions
            batch = self._open.get(partition) or self._begin(partition)
            if not batches.append(batch.builder, now_ms, key, value, headers):
                batch = self._begin(partition)
                batches.append(batch.builder, now_ms, key, value, headers)
            placed.append(Placed(batch, batch.records))
            batch.records += 1
        self.records += len(records)
        return placed

    def _place_large(self, record: OutgoingRecord, size: int) -> Placed | TallyError:
        """Make a batch of one record, if it is not too large for the topic."""
        if size + _OVERHEAD_BYTES > self._max_bytes:
            # The client checks single records only, and fails for good once a broker refuses a batch.
            return RecordRefused(f"the record is larger than {self._max_bytes} bytes")
        batch = self._begin(key_hash(record.key) % self._partitions)
        batches.append(batch.builder, time.time_ns() // 1_000_000, record.key, record.value, record.headers)
        batch.records, batch.is_large = 1, True
        del self._open[batch.partition]
        return Placed(batch, 0)

    def _begin(self, partition: int) -> Delivery:
        outcome = asyncio.get_running_loop().create_future()
        batch = Delivery(partition, batches.new_batch(self._client), self._deadline, outcome)
        self._open[partition] = batch
        self._done.append(batch)
        return batch


def encoded_deliveries(encoded: "EncodedRecords", deadline: float) -> list[Delivery]:
    """Return a delivery for each encoded batch."""
    new_future = asyncio.get_running_loop().create_future
    return [
        Delivery(partition, batches.EncodedBatch(encoded, number), deadline, new_future())
        for number, partition in enumerate(encoded.partitions.tolist())
    ]


async def error_of(sent: Delivery | TallyError) -> TallyError | None:
    """Wait for the outcome of a batch, and return its error, None once Kafka has it."""
    if isinstance(sent, Delivery):
        await sent.settled()
        outcome = sent.outcome.result()
        return outcome if isinstance(outcome, TallyError) else None
    return sent
