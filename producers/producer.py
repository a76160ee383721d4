"""Python producer: puts interactions on the topic and returns a receipt for each."""

import asyncio
import copy
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple, Self

from producers.deliveries import OutgoingRecord, Placed
from producers.topic import TopicWriter
from runtime import kafka
from runtime.errors import RecordRefused, TallyError
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
        self._topic = TopicWriter(self._settings, self._settings.delivery_timeout_ms)

    async def __aenter__(self) -> Self:
        await kafka.require_topic(self._settings)  # the client would wait long for a missing topic
        await self._topic.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._topic.__aexit__(*error)

    async def emit(
        self, interaction: Interaction, *, namespace: str | None = None, idempotency_key: str | None = None
    ) -> Receipt:
        """Put one interaction on the topic and wait for Kafka's acknowledgement.

        The `idempotency_key` (1 to 512 bytes) identifies an event without `execution_id`: the same key in the same
        namespace within the deduplication window is the same event. With an `execution_id` the key is ignored.

        Raises RecordRefused when Kafka will never accept the record, and Unavailable without an acknowledgement in
        time. Then the interaction may have arrived; emit it again if it has an `execution_id` or a key.
        """
        chunk = await self._send([interaction], namespace, idempotency_key)
        (record,), (placed,) = chunk.records, chunk.placed
        if isinstance(placed, Placed):
            await placed.delivery.settled()
        result = _result_of(interaction, record, placed)
        if isinstance(result, NotAccepted):
            raise copy.copy(result.error)  # the error of other records of the batch, too
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
            while (sending := await flow.next()) is not None:
                chunk = await sending
                for item, record, placed in zip(chunk.items, chunk.records, chunk.placed, strict=True):
                    if isinstance(placed, Placed) and not placed.delivery.outcome.done():
                        await placed.delivery.settled()
                    yield _result_of(item, record, placed)
                    flow.note_taken()
            await reading  # raises the source's error
        finally:
            await cancel_and_wait(reading)
            await flow.close()

    async def _read(self, interactions: "_InteractionSource", namespace: str | None, flow: "_Flow") -> None:
        """Read the source, as far as the flow has room, and send what has been read in each iteration of the loop."""
        loop, items = asyncio.get_running_loop(), list[_Item]()

        def send() -> None:
            nonlocal items
            if items:
                flow.add(asyncio.create_task(self._send(items, namespace)))
                items = []

        def take(item: _Item) -> bool:
            """Take an item, and return whether to pause."""
            if not items:
                loop.call_soon(send)  # runs when the source pauses, or in the pause after this
            items.append(item)
            flow.read += 1
            return len(items) >= ITEMS_PER_CHUNK or flow.is_full

        try:
            if isinstance(interactions, AsyncIterable):
                async for item in interactions:
                    if take(item):
                        await flow.pause()
            else:
                for item in interactions:
                    if take(item):
                        await flow.pause()
        finally:
            send()
            flow.end()

    async def _send(
        self, items: "Sequence[_Item]", namespace: str | None, idempotency_key: str | None = None
    ) -> "_SentChunk":
        """Encode items, and send them in the next round."""
        space = check_namespace(namespace or self._settings.namespace)
        token = None if idempotency_key is None else check_idempotency_key(idempotency_key)
        plain, imported = encode_headers(space), encode_headers(space, derived_id=True)
        records, refused = list[OutgoingRecord](), dict[int, RecordRefused]()
        for index, (item, minted) in enumerate(zip(items, mint_id.many(len(items)), strict=True)):
            if isinstance(item, ImportedInteraction):
                (interaction, interaction_id), headers, key = item, imported, None
            else:
                interaction, interaction_id, headers, key = item, minted, plain, token
            try:
                if key is not None and not interaction.execution_id:
                    headers = encode_headers(space, idempotency_key=key)
                value = encode_value(interaction, interaction_id)
                records.append(OutgoingRecord(interaction_id, partition_key(space, interaction, key), value, headers))
            except (AttributeError, TypeError, ValueError) as error:  # not an Interaction, or one made without checks
                refused[index] = RecordRefused(f"the interaction cannot be encoded: {error}")
        placed = await self._topic.send(records) if records else []
        for index, refusal in refused.items():
            records.insert(index, _NO_RECORD)
            placed.insert(index, refusal)
        return _SentChunk(items, records, placed)


_Item = Interaction | ImportedInteraction
_InteractionSource = Iterable[_Item] | AsyncIterable[_Item]

_NO_RECORD = OutgoingRecord("", b"", b"", ())
"""Stands for the record of an item that cannot be encoded."""
_from_epoch_ms = lru_cache(from_epoch_ms)  # all records of a batch have the same append time


class _SentChunk(NamedTuple):
    """Items that were sent together, and where their records are."""

    items: Sequence[_Item]
    records: Sequence[OutgoingRecord]
    placed: Sequence[Placed | TallyError]


def _result_of(item: _Item, record: OutgoingRecord, placed: Placed | TallyError) -> Receipt | NotAccepted:
    """Return the result of an item. Its batch must have an outcome."""
    interaction = item.interaction if isinstance(item, ImportedInteraction) else item
    if not isinstance(placed, Placed):
        return NotAccepted(interaction, placed)
    found = placed.delivery.outcome.result()
    if isinstance(found, TallyError):
        return NotAccepted(interaction, found)
    return Receipt(
        record.interaction_id,
        _from_epoch_ms(found.append_ms),
        placed.delivery.partition,
        None if found.offset is None else found.offset + placed.number,
        warning_for(interaction.feature_uri),
    )


class _Flow:
    """Chunks between the reader of a source and the taker of its results, and the number of items in between."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._chunks: deque[asyncio.Task[_SentChunk]] = deque()
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

    async def pause(self) -> None:
        """Let other work run. Without room, wait until half of the items are taken: batches of one would be slow."""
        if self.is_full:
            self._room.clear()
            await self._room.wait()
        else:
            await asyncio.sleep(0)

    def add(self, chunk: asyncio.Task[_SentChunk]) -> None:
        """Add a chunk that is being sent."""
        self._chunks.append(chunk)
        self._changed.set()

    def end(self) -> None:
        """Note that no chunk follows."""
        self._has_ended = True
        self._changed.set()

    async def next(self) -> asyncio.Task[_SentChunk] | None:
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
        await cancel_and_wait(*self._chunks)
