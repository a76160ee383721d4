"""Writer of records to the topic, with their acknowledgements.

Records that have arrived together are packed into one record batch for each partition (`runtime/rounds.py`). Each
partition has one batch in flight; further ones wait here, where they can still expire unsent. A partition without a
leader therefore delays the others for ROUND_PATIENCE_S, once.
"""

import asyncio
import logging
import time
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import (
    InvalidTopicError,
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
)

from producers import batches
from producers.clients import ProducerClients
from producers.deliveries import (
    BatchMetadata,
    Delivery,
    OutgoingRecord,
    Packing,
    Placed,
    RecordMetadata,
    encoded_deliveries,
)
from runtime.errors import RecordRefused, TallyError, Unavailable, reason_of
from runtime.rounds import Rounds
from runtime.settings import Settings
from runtime.tasks import cancel_and_wait, start

if TYPE_CHECKING:
    from kernels.boundary import EncodedRecords

ROUND_PATIENCE_S = 0.1
"""Longest time that a round waits for the acknowledgement of its batches before the next one begins."""
RETRY_S = 0.5
"""Time between attempts to replace a client."""
RECORDS_BETWEEN_PAUSES = 2_000
"""Records that are packed before other work of the event loop has a turn."""

_REFUSALS = (
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
    InvalidTopicError,
)
_CLIENT_SURVIVES = (KafkaTimeoutError, TopicAuthorizationFailedError, InvalidTopicError)
"""Errors, besides retriable ones, after which the client still works. After others its sequence numbers have a gap, or
its sender task has ended."""


log = logging.getLogger("tally.kafka")


class _Sending(NamedTuple):
    """Records of one call, which wait for the next round."""

    records: Sequence[OutgoingRecord]
    encoded: "EncodedRecords | None"
    future: "asyncio.Future[Any]"


@dataclass(slots=True)
class _Partition:
    """Batches of a partition: the one in flight, and those that wait for it."""

    in_flight: Delivery | None = None
    waiting: deque[Delivery] = field(default_factory=deque)


class TopicWriter:
    """Writer of the topic. Use it as an async context manager; closing it waits for unsent records.

    `timeout_ms` bounds the wait for an acknowledgement. A client that has failed for good is replaced. Meanwhile
    batches wait.
    """

    def __init__(self, settings: Settings, timeout_ms: int) -> None:
        self._clients = ProducerClients(settings)
        self._name = settings.topic
        self._timeout_ms = timeout_ms
        self._max_bytes = settings.max_record_bytes
        self._rounds = Rounds[_Sending](self._serve, "sending records to Kafka")
        self._partitions: dict[int, _Partition] = defaultdict(_Partition)
        self._unsettled: deque[Delivery] = deque()
        self._expiry: asyncio.TimerHandle | None = None
        self._client: AIOKafkaProducer
        self._replacing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._client = await self._clients.open_next()
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self._rounds.finish()
        if pending := [each.outcome for each in self._unsettled if not each.outcome.done()]:
            await asyncio.wait(pending)  # each has a deadline
        if self._expiry is not None:
            self._expiry.cancel()
        await cancel_and_wait(self._replacing)
        await self._clients.close()

    async def check(self) -> None:
        """Raise Unavailable unless a broker answers and the client can write."""
        try:
            if self._replacing is not None or not await self._client.client.force_metadata_update():
                raise Unavailable("Kafka (TALLY_KAFKA) does not answer")
        except KafkaError as error:
            raise Unavailable(f"Kafka (TALLY_KAFKA): {reason_of(error)}") from error

    async def put_all(self, records: Sequence[OutgoingRecord]) -> list[RecordMetadata | TallyError]:
        """Put records on the topic. Return the metadata or the error of each, once all have one.

        An error is RecordRefused when Kafka will never accept the record, and Unavailable without an acknowledgement in
        time, after which it may still arrive.
        """
        placed = await self.send(records)
        if pending := {each.delivery.outcome for each in placed if isinstance(each, Placed)}:
            await asyncio.wait(pending)
        return [each.result() if isinstance(each, Placed) else each for each in placed]

    async def send(self, records: Sequence[OutgoingRecord]) -> list[Placed | TallyError]:
        """Pack records into batches in the next round. Return the place of each, or why it was not sent."""
        sending = _Sending(records, None, asyncio.get_running_loop().create_future())
        self._rounds.add(sending)
        placed: list[Placed | TallyError] = await sending.future
        return placed

    async def send_encoded(self, encoded: "EncodedRecords") -> list[Delivery | TallyError]:
        """Send encoded batches in the next round. Return the delivery of each, or why it was not sent."""
        sending = _Sending((), encoded, asyncio.get_running_loop().create_future())
        self._rounds.add(sending)
        deliveries: list[Delivery | TallyError] = await sending.future
        return deliveries

    async def partition_count(self) -> int:
        """Return the number of partitions, at most METADATA_MAX_AGE_MS old. Raises Unavailable."""
        try:
            async with asyncio.timeout(self._timeout_ms / 1000):
                return len(await self._client.partitions_for(self._name))
        except (KafkaError, TimeoutError) as error:
            raise self._fault(error) from error

    async def _serve(self, sendings: list[_Sending]) -> None:
        """Serve a round: pack all records, send the batches, and wait for them, but not for long."""
        deadline = asyncio.get_running_loop().time() + self._timeout_ms / 1000
        try:
            partitions = await self.partition_count()
        except TallyError as fault:
            for sending in sendings:
                _resolve(
                    sending, [fault] * (len(sending.encoded.partitions) if sending.encoded else len(sending.records))
                )
            return
        packing, sent = Packing(self._client, partitions, deadline, self._max_bytes), list[Delivery]()
        for sending in sendings:
            if sending.encoded is None:
                _resolve(sending, packing.place_all(sending.records))
            else:
                deliveries = encoded_deliveries(sending.encoded, deadline)
                sent += self._hand_over(deliveries)
                _resolve(sending, deliveries)
            if packing.records >= RECORDS_BETWEEN_PAUSES:
                sent += self._hand_over(packing.take())
                await asyncio.sleep(0)
        sent += self._hand_over(packing.take())
        if sent:
            await asyncio.wait([each.outcome for each in sent], timeout=ROUND_PATIENCE_S)

    def _hand_over(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Send batches, or let them wait for the one in flight. Return those that were sent."""
        while self._unsettled and self._unsettled[0].outcome.done():
            self._unsettled.popleft()
        self._unsettled.extend(deliveries)
        for delivery in deliveries:
            of_partition = self._partitions[delivery.partition]
            of_partition.waiting.append(delivery)
            self._send_next(of_partition)
        self._expire_later()
        return [each for each in deliveries if each.is_sent]

    def _send_next(self, of_partition: _Partition) -> None:
        """Send the partition's next batch unless one is in flight."""
        while of_partition.waiting and of_partition.in_flight is None and self._replacing is None:
            delivery, client = of_partition.waiting.popleft(), self._client
            if delivery.outcome.done():
                continue  # expired
            try:
                future = batches.queue(client, delivery.builder, TopicPartition(self._name, delivery.partition))
            except KafkaError as error:
                delivery.settle(self._fault(error, client, is_large=delivery.is_large))
                continue
            of_partition.in_flight, delivery.is_sent = delivery, True
            future.add_done_callback(partial(self._note_answer, of_partition, delivery, client))

    def _note_answer(
        self, of_partition: _Partition, delivery: Delivery, client: AIOKafkaProducer, future: "asyncio.Future[Any]"
    ) -> None:
        """Settle a batch that Kafka has acknowledged or refused, and send the next one."""
        error = KafkaError("the client was closed") if future.cancelled() else future.exception()
        if error is None:
            delivery.settle(_metadata_of(future.result()))
        elif isinstance(error, KafkaError | AssertionError | TypeError):  # the latter: an unknown partition
            delivery.settle(self._fault(error, client, is_large=delivery.is_large))
        else:
            delivery.settle(self._fault(KafkaError(repr(error)), client, is_large=delivery.is_large))
        if of_partition.in_flight is delivery:
            of_partition.in_flight = None
            self._send_next(of_partition)

    def _expire_later(self) -> None:
        if self._expiry is None and self._unsettled:
            loop = asyncio.get_running_loop()
            self._expiry = loop.call_at(self._unsettled[0].deadline, self._expire, loop)

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        """Settle batches whose deadline has passed. All have the same timeout, so the oldest are first."""
        self._expiry = None
        while self._unsettled and (self._unsettled[0].outcome.done() or self._unsettled[0].deadline <= loop.time()):
            delivery = self._unsettled.popleft()
            if not delivery.outcome.done():
                delivery.settle(self._fault(TimeoutError()))
        self._expire_later()

    def _fault(self, error: Exception, client: AIOKafkaProducer | None = None, *, is_large: bool = False) -> TallyError:
        """Translate the error of a batch, and replace its `client` if that cannot write any more."""
        survives = isinstance(error, _CLIENT_SURVIVES) or getattr(error, "retriable", False)
        if client is self._client and isinstance(error, KafkaError) and not survives and self._replacing is None:
            log.warning("the Kafka producer failed fatally and is replaced: %s", reason_of(error))
            self._replacing = start(self._replace_client(), "replacing a Kafka producer")
        if isinstance(error, MessageSizeTooLargeError) and not is_large:
            return Unavailable(
                f"topic {self._name} accepts no records: it is being expanded, or its max.message.bytes is far too low"
            )
        if isinstance(error, _REFUSALS):
            return RecordRefused(f"Kafka refused the record: {reason_of(error)}")
        # The timeout is Tally's: an idempotent producer never drops a batch, and would wait for ever.
        return Unavailable(f"Kafka (TALLY_KAFKA) did not acknowledge within {self._timeout_ms} ms: {reason_of(error)}")

    async def _replace_client(self) -> None:
        """Open another client. Batches in flight stay with the one before, waiting ones are sent by the new one."""
        while True:
            try:
                self._client = await self._clients.open_next()
                break
            except TallyError as error:
                log.warning("recreating the Kafka producer failed, retrying in %.1f s: %s", RETRY_S, error)
                await asyncio.sleep(RETRY_S)
        self._replacing = None
        for each in self._partitions.values():
            each.in_flight = None
            self._send_next(each)


def _resolve(sending: _Sending, results: Sequence[Placed | Delivery | TallyError]) -> None:
    if not sending.future.done():  # cancelled by a caller that left; its records are sent all the same
        sending.future.set_result(results)


def _metadata_of(acknowledged: Any) -> BatchMetadata:
    offset, append_ms = acknowledged.offset, acknowledged.timestamp
    return BatchMetadata(offset if offset >= 0 else None, append_ms if append_ms >= 0 else time.time_ns() // 1_000_000)
