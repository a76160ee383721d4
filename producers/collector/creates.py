"""Single events: all that have arrived are scanned, put on Kafka and compared with earlier ones together."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple

from producers.collector.accepted import AcceptedEvent, scan_texts
from producers.collector.hints import DuplicateHints, HintRequest
from producers.deliveries import BatchMetadata, Delivery, Placed
from producers.topic import TopicWriter
from runtime.errors import TallyError
from runtime.rounds import Rounds
from schemas.dedup import dedup_key
from schemas.identity import mint_id
from schemas.wire import encode_headers

MAX_PAUSE_S = 0.004
"""Longest time from the start of a round of many events to that of the next. A round costs as much as eight events."""


class Created(NamedTuple):
    """Event that Kafka has acknowledged, its id and append time, and the id of the event that it probably repeats."""

    event: AcceptedEvent
    interaction_id: str
    append_ms: int
    first: str | None


@dataclass(slots=True, eq=False)
class Create:
    """Request for one event. `future` becomes the created event, or None when the validator has to decide about it.

    Its exception is a TallyError: RecordRefused, or Unavailable without an acknowledgement in time.
    """

    namespace: str
    body: bytes
    token: str | None
    """Idempotency key."""
    traceparent: bytes | None
    future: "asyncio.Future[Any]"
    event: AcceptedEvent | None = None
    interaction_id: str = ""
    append_ms: int = 0

    def finish(self, first: str | None) -> None:
        """Complete the request, with a hint if there is one."""
        assert self.event is not None  # noqa: S101  (only an accepted event is sent)
        if not self.future.done():  # cancelled by a client that left
            self.future.set_result(Created(self.event, self.interaction_id, self.append_ms, first))

    def fail(self, error: TallyError) -> None:
        """Fail the request."""
        if not self.future.done():
            self.future.set_exception(error)


class Creates:
    """Creation of single events, in rounds. The validator decides about those of more than `max_bytes`."""

    def __init__(self, topic: TopicWriter, hints: DuplicateHints, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._topic = topic
        self._hints = hints
        self._rounds = Rounds[Create](self._serve, "accepting events", max_pause_s=MAX_PAUSE_S)

    async def create(self, create: Create) -> Created | None:
        """Accept an event in the next round. Return None for one that the scanner leaves to the validator."""
        self._rounds.add(create)
        created: Created | None = await create.future
        return created

    async def close(self) -> None:
        """Cancel the running round."""
        await self._rounds.close()

    async def _serve(self, creates: list[Create]) -> None:
        _scan([each for each in creates if each.event is None], self._max_bytes)
        sending = [each for each in creates if each.event is not None]
        records = []
        for each, interaction_id in zip(sending, mint_id.many(len(sending)), strict=True):
            each.interaction_id = interaction_id
            assert each.event is not None  # noqa: S101
            token = None if each.event.execution_id else each.token
            headers = _headers(each.namespace, token, each.traceparent)
            records.append(each.event.record(each.namespace, interaction_id, token, headers))
        by_delivery = defaultdict[Delivery, list[Create]](list)
        for each, placed in zip(sending, await self._topic.send(records) if records else (), strict=True):
            if isinstance(placed, Placed):
                by_delivery[placed.delivery].append(each)
            else:
                each.fail(placed)
        for delivery, of_delivery in by_delivery.items():
            delivery.outcome.add_done_callback(partial(self._note_outcome, of_delivery))

    def _note_outcome(self, creates: Sequence[Create], outcome: "asyncio.Future[BatchMetadata | TallyError]") -> None:
        found = outcome.result()
        for each in creates:
            if isinstance(found, TallyError):
                each.fail(type(found)(str(found)))  # an exception of its own: each is raised by another task
                continue
            each.append_ms = found.append_ms
            key = _hint_key(each)
            if key is None:
                each.finish(None)
            else:
                self._hints.add(HintRequest(key, each.interaction_id, each.finish, each.future))


def _scan(creates: Sequence[Create], max_bytes: int) -> None:
    """Note the events that the scanner accepts, and end the round for the others."""
    events = scan_texts([each.body for each in creates], max_bytes) if creates else ()
    for each, event in zip(creates, events, strict=True):
        each.event = event
        if event is None and not each.future.done():
            each.future.set_result(None)


def _hint_key(create: Create) -> bytes | None:
    """Return the deduplication key. An event with its own time is a backfill, which has no hints."""
    event = create.event
    if event is None or event.occurred_ms is not None:
        return None
    return dedup_key(create.namespace, event.execution_id, event.feature_id, event.types, create.token)


@lru_cache
def _headers(namespace: str, token: str | None, traceparent: bytes | None) -> list[tuple[str, bytes]]:
    return encode_headers(namespace, idempotency_key=token, traceparent=traceparent)
