"""Python producer: puts interactions on the topic and returns a receipt for each."""

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, suppress
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple, Self

from producers.clients import ProducerClients
from producers.deliveries import OutgoingRecord, Placed
from producers.topic import TopicWriter
from runtime import kafka
from runtime.errors import TallyError, Unavailable
from runtime.settings import Settings
from runtime.tasks import cancel_and_wait
from schemas.event_time import from_epoch_ms
from schemas.identity import mint_id
from schemas.interaction import Interaction, warning_for
from schemas.wire import check_idempotency_key, check_namespace, encode_headers, encode_value, partition_key

ITEMS_PER_CHUNK = 500
"""Maximum items that are read from a source before they are sent; a source that pauses sends fewer."""


class Receipt(NamedTuple):
    """Receipt of an accepted interaction, which Kafka has on all in-sync replicas.

    `timestamp` is its append time, `warning` a reason why it may not act as intended. The consumer decides later
    whether it is stored or a duplicate; look it up by `interaction_id`.
    """

    interaction_id: str
    timestamp: datetime
    partition: int
    offset: int | None
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
        record = self._record_of(interaction, namespace, idempotency_key)
        (placed,) = await self._send([record])
        if isinstance(placed, Placed):
            await placed.delivery.outcome
        result = _result_of(interaction, record, placed)
        if isinstance(result, NotAccepted):
            raise result.error
        return result

    async def emit_many(
        self,
        interactions: "_InteractionSource",
        *,
        namespace: str | None = None,
    ) -> AsyncIterator[Receipt | NotAccepted]:
        """Emit many interactions, and yield one result for each, in order.

        The source is read only while fewer than TALLY_EMIT_IN_FLIGHT interactions have been read whose results have
        not been taken.
        """
        flow = _Flow(self._settings.emit_in_flight)
        reading = asyncio.create_task(self._read(interactions, namespace, flow))
        try:
            while (chunk := await flow.next()) is not None:
                for interaction, record, placed in zip(
                    chunk.interactions, chunk.records, await chunk.sent, strict=True
                ):
                    if isinstance(placed, Placed) and not placed.delivery.outcome.done():
                        await placed.delivery.outcome
                    yield _result_of(interaction, record, placed)
                    flow.note_taken()
            await reading  # raises the source's error
        finally:
            await cancel_and_wait(reading)
            await flow.close()

    async def _read(self, interactions: "_InteractionSource", namespace: str | None, flow: "_Flow") -> None:
        """Read the source, as far as the flow has room, and send what has been read in each iteration of the loop."""
        loop, chunk = asyncio.get_running_loop(), _Chunk([], [])

        def send() -> None:
            nonlocal chunk
            if chunk.records:
                flow.add(chunk, asyncio.create_task(self._send(chunk.records)))
                chunk = _Chunk([], [])

        try:
            async for item in _iterate(interactions):
                if not chunk.records:
                    loop.call_soon(send)  # runs when the source pauses, or after the pause below
                chunk.interactions.append(item[0] if isinstance(item, ImportedInteraction) else item)
                chunk.records.append(self._record_of(item, namespace))
                flow.read += 1
                if flow.is_full:
                    await flow.has_room()
                elif len(chunk.records) >= ITEMS_PER_CHUNK:
                    await asyncio.sleep(0)
        finally:
            send()
            flow.end()

    def _record_of(
        self, item: Interaction | ImportedInteraction, namespace: str | None, idempotency_key: str | None = None
    ) -> OutgoingRecord:
        imported = isinstance(item, ImportedInteraction)
        interaction, interaction_id = item if isinstance(item, ImportedInteraction) else (item, mint_id())
        space = _checked_namespace(namespace or self._settings.namespace)
        token = None if idempotency_key is None or interaction.execution_id else check_idempotency_key(idempotency_key)
        return OutgoingRecord(
            interaction_id,
            partition_key(space, interaction, token),
            encode_value(interaction, interaction_id),
            encode_headers(space, derived_id=imported, idempotency_key=token) if token else _headers(space, imported),
        )

    async def _send(self, records: Sequence[OutgoingRecord]) -> list[Placed | TallyError]:
        if self._topic.broken is not None:
            await self._replace_client()
        return await self._topic.send(records)

    async def _replace_client(self) -> None:
        """Replace a failed client. Without a broker the next call tries again."""
        async with self._replacing:
            if self._topic.broken is not None:
                with suppress(Unavailable):
                    self._topic.use_client(await self._clients.open_next())


def _result_of(interaction: Interaction, record: OutgoingRecord, placed: Placed | TallyError) -> Receipt | NotAccepted:
    found = placed.result() if isinstance(placed, Placed) else placed
    if isinstance(found, TallyError):
        return NotAccepted(interaction, found)
    return Receipt(
        record.interaction_id,
        _from_epoch_ms(found.append_ms),
        found.partition,
        found.offset,
        warning_for(interaction.feature_uri),
    )


_checked_namespace = lru_cache(check_namespace)
_from_epoch_ms = lru_cache(from_epoch_ms)  # all records of a batch have the same append time


@lru_cache
def _headers(namespace: str, imported: bool) -> Sequence[tuple[str, bytes]]:
    return encode_headers(namespace, derived_id=imported)


class _Chunk(NamedTuple):
    """Interactions that were read together, and their records."""

    interactions: list[Interaction]
    records: list[OutgoingRecord]


class _SentChunk(NamedTuple):
    interactions: list[Interaction]
    records: list[OutgoingRecord]
    sent: "asyncio.Task[list[Placed | TallyError]]"


class _Flow:
    """Chunks between the reader of a source and the taker of its results, and the number of items in between."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._chunks: deque[_SentChunk] = deque()
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._has_ended = False
        self._taken = 0
        self.read = 0
        """Items read so far."""

    @property
    def is_full(self) -> bool:
        """Whether as many items as allowed have been read and not been taken."""
        return self.read - self._taken >= self._limit

    async def has_room(self) -> None:
        """Return once half of the items have been taken: room for one at a time would mean batches of one."""
        self._room.clear()
        await self._room.wait()

    def add(self, chunk: _Chunk, sent: "asyncio.Task[list[Placed | TallyError]]") -> None:
        """Add a chunk that is being sent."""
        self._chunks.append(_SentChunk(*chunk, sent))
        self._changed.set()

    def end(self) -> None:
        """Note that no chunk follows."""
        self._has_ended = True
        self._changed.set()

    async def next(self) -> _SentChunk | None:
        """Return the next chunk, None after the last."""
        while not self._chunks and not self._has_ended:
            self._changed.clear()
            await self._changed.wait()
        return self._chunks.popleft() if self._chunks else None

    def note_taken(self) -> None:
        """Note that the result of one item has been taken."""
        self._taken += 1
        if self.read - self._taken <= self._limit // 2:
            self._room.set()

    async def close(self) -> None:
        """Stop sending chunks whose results nobody takes."""
        await cancel_and_wait(*(chunk.sent for chunk in self._chunks))


_InteractionSource = Iterable[Interaction | ImportedInteraction] | AsyncIterable[Interaction | ImportedInteraction]


async def _iterate(items: _InteractionSource) -> AsyncIterator[Interaction | ImportedInteraction]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item
