"""Python producer: puts interactions on the topic and returns a receipt for each."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from contextlib import AsyncExitStack, suppress
from datetime import datetime
from typing import Any, NamedTuple, Self

from producers.topic import OutgoingRecord, PendingRecord, ProducerClients, TopicWriter
from runtime import kafka
from runtime.errors import TallyError, Unavailable
from runtime.settings import Settings
from runtime.tasks import cancel_and_wait
from schemas.event_time import from_epoch_ms
from schemas.identity import mint_id
from schemas.interaction import Interaction, warning_for
from schemas.wire import check_idempotency_key, check_namespace, encode_headers, encode_value, partition_key

ITEMS_BETWEEN_PAUSES = 64


class Receipt(NamedTuple):
    """Receipt of an accepted interaction, which Kafka has on all in-sync replicas.

    `timestamp` is its append time, `warning` a reason why it may not act as intended. The consumer decides later
    whether it is stored or a duplicate; look it up by `interaction_id`.
    """

    interaction_id: str
    timestamp: datetime
    partition: int
    offset: int
    warning: str | None


class NotAccepted(NamedTuple):
    """Interaction that Kafka has not acknowledged. After `Unavailable` it may still have arrived."""

    interaction: Interaction
    error: TallyError


class ImportedInteraction(NamedTuple):
    """Interaction with an id derived from its source, so that a second import stores nothing."""

    interaction: Interaction
    interaction_id: str


class Producer:
    """Producer of interactions. Use it as an async context manager; closing it waits for unsent records.

        async with Producer() as producer:
            receipt = await producer.emit(Interaction(feature_id="doc-1", interaction_type=["click"], position=0))

    Without arguments it uses the `TALLY_*` settings or a running stack. Keyword arguments override settings, for
    example `Producer(kafka="127.0.0.1:9092", namespace="shop")`.
    """

    def __init__(self, settings: Settings | None = None, **overrides: Any) -> None:
        self._settings = settings or Settings.load(**overrides)
        self._open = AsyncExitStack()
        self._clients: ProducerClients
        self._replacing = asyncio.Lock()
        self._topic: TopicWriter

    async def __aenter__(self) -> Self:
        await kafka.require_topic(self._settings)  # the client would wait long for a missing topic
        self._clients = await self._open.enter_async_context(ProducerClients(self._settings))
        client, settings = await self._clients.open_next(), self._settings
        self._topic = TopicWriter(client, settings.topic, settings.delivery_timeout_ms, settings.max_record_bytes)
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self._open.aclose()

    async def emit(
        self, interaction: Interaction, *, namespace: str | None = None, idempotency_key: str | None = None
    ) -> Receipt:
        """Put one interaction on the topic and wait for Kafka's acknowledgement.

        The `idempotency_key` (1 to 512 bytes) identifies an event without `execution_id`: the same key in the same
        namespace within the deduplication window is the same event. With an `execution_id` the key is ignored.

        Raises RecordRefused when Kafka will never accept the record, and Unavailable without an acknowledgement in
        time. Then the interaction may have arrived; emit it again if it has an `execution_id` or a key.
        """
        outcome = await self._receipt(await self._send(interaction, namespace, idempotency_key))
        if isinstance(outcome, NotAccepted):
            raise outcome.error
        return outcome

    async def emit_many(
        self,
        interactions: "_InteractionSource",
        *,
        namespace: str | None = None,
    ) -> AsyncIterator[Receipt | NotAccepted]:
        """Emit many interactions, and yield one result for each, in order.

        The source is read only while fewer than TALLY_EMIT_IN_FLIGHT records are unacknowledged.
        """
        # Besides those in the queue, one record is awaited here and one waits to enter the queue.
        sent: asyncio.Queue[_PendingEmit | None] = asyncio.Queue(max(1, self._settings.emit_in_flight - 2))
        sending = asyncio.create_task(self._send_all(interactions, namespace, sent))
        try:
            while (oldest := await sent.get()) is not None:
                yield await self._receipt(oldest)
            await sending  # raises the source's error
        finally:
            await cancel_and_wait(sending)

    async def _send_all(
        self, items: "_InteractionSource", namespace: str | None, sent: "asyncio.Queue[_PendingEmit | None]"
    ) -> None:
        """Send one item after another. Results do not wait for a source that pauses."""
        number = 0
        try:
            async for item in _iterate(items):
                await sent.put(await self._send(item, namespace))
                number += 1
                if number % ITEMS_BETWEEN_PAUSES == 0:
                    await asyncio.sleep(0)  # lets the client's tasks run, because nothing above has to wait
        except Exception:
            await sent.put(None)
            raise
        await sent.put(None)

    async def _send(
        self, item: Interaction | ImportedInteraction, namespace: str | None, idempotency_key: str | None = None
    ) -> "_PendingEmit":
        imported = isinstance(item, ImportedInteraction)
        interaction, interaction_id = item if isinstance(item, ImportedInteraction) else (item, mint_id())
        space = check_namespace(namespace or self._settings.namespace)
        token = None if idempotency_key is None or interaction.execution_id else check_idempotency_key(idempotency_key)
        record = OutgoingRecord(
            interaction_id,
            partition_key(space, interaction, token),
            encode_value(interaction, interaction_id),
            encode_headers(space, derived_id=imported, idempotency_key=token),
        )
        if self._topic.broken is not None:
            await self._replace_client()
        return _PendingEmit(interaction, interaction_id, await self._topic.send(record))

    async def _replace_client(self) -> None:
        """Replace a failed client. Without a broker the next call tries again."""
        async with self._replacing:
            if self._topic.broken is not None:
                with suppress(Unavailable):
                    self._topic.use_client(await self._clients.open_next())

    async def _receipt(self, sent: "_PendingEmit") -> Receipt | NotAccepted:
        try:
            metadata = await self._topic.wait_acknowledged(sent.record)
        except TallyError as error:
            return NotAccepted(sent.interaction, error)
        return Receipt(
            interaction_id=sent.interaction_id,
            timestamp=from_epoch_ms(metadata.append_ms),
            partition=metadata.partition,
            offset=metadata.offset,
            warning=warning_for(sent.interaction.feature_uri),
        )


class _PendingEmit(NamedTuple):
    interaction: Interaction
    interaction_id: str
    record: PendingRecord


_InteractionSource = Iterable[Interaction | ImportedInteraction] | AsyncIterable[Interaction | ImportedInteraction]


async def _iterate(items: _InteractionSource) -> AsyncIterator[Interaction | ImportedInteraction]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item
