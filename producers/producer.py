"""The Python producer: puts interactions on the topic and says where each one landed."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from contextlib import AsyncExitStack, suppress
from datetime import datetime
from types import TracebackType
from typing import Any, NamedTuple, Self

from producers.clients import ProducerClients
from producers.topic import OutgoingRecord, PendingRecord, TopicWriter
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
    """An accepted interaction: Kafka has it on all in-sync replicas.

    `timestamp` is when it was recorded, `warning` says why it may not act as intended. Whether it is stored or
    a duplicate is decided from the log; ask for it by `interaction_id`.
    """

    interaction_id: str
    timestamp: datetime
    partition: int
    offset: int
    warning: str | None


class NotAccepted(NamedTuple):
    """An interaction that Kafka has not acknowledged. After `Unavailable` it may still have arrived."""

    interaction: Interaction
    error: TallyError


class ImportedInteraction(NamedTuple):
    """An interaction with the id that its source derives for it, so that importing twice stores once."""

    interaction: Interaction
    interaction_id: str


class Producer:
    """Emits interactions. Use it as an async context manager; leaving it waits for what is unsent.

        async with Producer() as producer:
            receipt = await producer.emit(Interaction(feature_id="doc-1", interaction_type=["click"], position=0))

    Without arguments it finds a running stack or the `TALLY_*` settings; keyword arguments override settings,
    for example `Producer(kafka="127.0.0.1:9092", namespace="shop")`.
    """

    def __init__(self, settings: Settings | None = None, **overrides: Any) -> None:
        self._settings = settings or Settings.load(**overrides)
        self._open = AsyncExitStack()
        self._clients: ProducerClients
        self._replacing = asyncio.Lock()
        self._topic: TopicWriter

    async def __aenter__(self) -> Self:
        await kafka.require_topic(self._settings)  # the client would wait long for a topic that is not there
        self._clients = await self._open.enter_async_context(ProducerClients(self._settings))
        client, settings = await self._clients.open_next(), self._settings
        self._topic = TopicWriter(client, settings.topic, settings.delivery_timeout_ms, settings.max_record_bytes)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._open.aclose()

    async def emit(
        self, interaction: Interaction, *, namespace: str | None = None, idempotency_key: str | None = None
    ) -> Receipt:
        """Put one interaction on the topic and wait until Kafka has it.

        Without an `execution_id`, the same `idempotency_key` (1 to 512 bytes) in the same namespace within the
        window is the same event; with one, the tuple decides and the key is ignored.

        Raises RecordRefused when it never will, Unavailable when it did not answer in time; after that the
        interaction may or may not have arrived, and emitting it again is safe if it has an `execution_id` or a key.
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
        """Emit many, yielding one result for each, in order.

        At most `emit_in_flight` (a setting) are unacknowledged at any time: then the source is not read on.
        """
        # Besides the queue, one is being waited for here and one waits for its place in the queue.
        sent: asyncio.Queue[_PendingEmit | None] = asyncio.Queue(max(1, self._settings.emit_in_flight - 2))
        sending = asyncio.create_task(self._send_all(interactions, namespace, sent))
        try:
            while (oldest := await sent.get()) is not None:
                yield await self._receipt(oldest)
            await sending  # raises what the source raised
        finally:
            await cancel_and_wait(sending)

    async def _send_all(
        self, items: "_InteractionSource", namespace: str | None, sent: "asyncio.Queue[_PendingEmit | None]"
    ) -> None:
        """Send item after item, independently of who waits for results: a source may pause, and results may not."""
        number = 0
        try:
            async for item in _iterate(items):
                await sent.put(await self._send(item, namespace))
                number += 1
                if number % ITEMS_BETWEEN_PAUSES == 0:
                    await asyncio.sleep(0)  # nothing above need wait; let the client's own tasks run
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
        """Put a new client in the place of one that is beyond repair; with no broker the next one tries again."""
        async with self._replacing:
            if self._topic.broken is not None:
                with suppress(Unavailable):
                    self._topic.use_client(await self._clients.open_next())

    async def _receipt(self, sent: "_PendingEmit") -> Receipt | NotAccepted:
        try:
            landed = await self._topic.wait_acknowledged(sent.record)
        except TallyError as error:
            return NotAccepted(sent.interaction, error)
        return Receipt(
            interaction_id=sent.interaction_id,
            timestamp=from_epoch_ms(landed.append_ms),
            partition=landed.partition,
            offset=landed.offset,
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
