"""Records on their way to Kafka: packed into a batch for each partition, each batch with one outcome."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.producer.message_accumulator import BatchBuilder

from producers import batches
from producers.partitions import key_hash
from runtime.errors import RecordRefused, TallyError

SMALL_BYTES = 64 * 1024
"""Size that no topic refuses, unless it is being expanded and accepts no records (`tally topic expand`). A larger
record is a batch of its own, so a broker that refuses it refuses no other record."""
_OVERHEAD_BYTES = 1_024
"""Bound of a record's framing and headers in bytes: names and values of Tally's headers are shorter."""


class OutgoingRecord(NamedTuple):
    """Record to put on the topic, with its event's id."""

    interaction_id: str
    key: bytes
    value: bytes
    headers: Sequence[tuple[str, bytes]]

    @property
    def nbytes(self) -> int:
        """Size of key and value in bytes."""
        return len(self.key) + len(self.value)


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
    builder: BatchBuilder | None
    deadline: float
    """Time of the event loop after which the batch has failed. If it was sent, it may still arrive."""
    outcome: "asyncio.Future[BatchMetadata | TallyError]"
    largest: int = 0
    """Size of the largest record in bytes."""
    is_sent: bool = False

    def add(self, record: OutgoingRecord, size: int) -> "Placed | None":
        """Add a record, unless the batch is full; the first record always fits."""
        assert self.builder is not None  # noqa: S101  (it is not sent yet)
        number = self.builder.record_count()
        if self.builder.append(timestamp=None, key=record.key, value=record.value, headers=record.headers) is None:
            return None
        self.largest = max(self.largest, size)
        return Placed(self, number)

    def settle(self, outcome: BatchMetadata | TallyError) -> None:
        """Set the outcome, unless there is one."""
        if not self.outcome.done():
            self.outcome.set_result(outcome)


class Placed(NamedTuple):
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

    def place(self, record: OutgoingRecord) -> Placed | TallyError:
        """Add a record to a batch of its partition. Return its place, or why it is too large."""
        size = record.nbytes
        if size + _OVERHEAD_BYTES > self._max_bytes:
            # The client checks single records only, and fails for good once a broker refuses a batch.
            return RecordRefused(f"the record is larger than {self._max_bytes} bytes")
        self.records += 1
        partition = key_hash(record.key) % self._partitions
        if size > SMALL_BYTES:
            placed = self._begin(partition).add(record, size)
            del self._open[partition]
        else:
            delivery = self._open.get(partition) or self._begin(partition)
            placed = delivery.add(record, size) or self._begin(partition).add(record, size)
        assert placed is not None  # noqa: S101  (the first record always fits)
        return placed

    def _begin(self, partition: int) -> Delivery:
        outcome = asyncio.get_running_loop().create_future()
        delivery = Delivery(partition, batches.new_batch(self._client), self._deadline, outcome)
        self._open[partition] = delivery
        self._done.append(delivery)
        return delivery
