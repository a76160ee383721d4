"""Validation without acceptance: verdicts as of create, derived values and warnings. Nothing is sent to Kafka."""

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import msgspec
from fastapi import Response
from msgspec import UNSET, Raw, UnsetType

from producers.collector.accepted import AcceptedEvent
from producers.collector.dry_run_models import (
    DeduplicationPlan,
    DerivedValues,
    EventWarning,
    ItemValidation,
    WarningCode,
)
from producers.collector.events import RequestValidator, refusal_of_create
from producers.partitions import partition_of
from producers.topic import TopicWriter
from runtime.errors import TallyError
from runtime.http.body import ChunkedJsonResponse
from runtime.http.errors import too_large, unavailable
from runtime.http.turns import TurnQueue
from runtime.settings import Settings
from schemas.analytics.base import QUERY_TEXT_PATH
from schemas.dedup import dedup_key
from schemas.event_time import from_epoch_ms, iso_ms
from schemas.interaction import warning_for
from schemas.rejection import Rejection
from schemas.wire import ValidEvent, partition_key

MESSAGES: dict[WarningCode, str] = {
    "no_execution_id": "no execution_id: the events of one search cannot be joined, and only an Idempotency-Key lets a "
    "repeat be recognized as a duplicate",
    "no_retriever_id": "no retriever_id: reports cannot tell retrievers apart",
    "no_query_text": "query_snapshot has no text (TALLY_QUERY_TEXT_PATH): the event cannot be assigned to a query",
    "position_outside_results": "position counts from 0 and is not below result_set_size",
    "future_event_time": "occurred_at is in the future: the record shows the time of acceptance instead",
}
"""Warnings of tracking that one event shows. The warning about feature_uri is that of create."""


class _BatchKey(msgspec.Struct):
    """Body of which only the key that tells a batch from an event is read."""

    interactions: Raw | UnsetType = UNSET


class DryRunContext(NamedTuple):
    """Values of a request that decide about its events, besides the events themselves."""

    namespace: str
    idempotency_key: str | None
    deduplicate: bool
    """False for a batch that is exempt from deduplication."""
    query_path: Sequence[str] = QUERY_TEXT_PATH
    """Path of the query's text in `query_snapshot`."""


class DryRun:
    """Validation of requests of create and of batch."""

    def __init__(self, settings: Settings, validator: RequestValidator, topic: TopicWriter) -> None:
        self._body_bytes = settings.http_body_bytes
        self._validator = validator
        self._topic = topic
        self._turns = TurnQueue()

    async def check(self, body: bytes, context: DryRunContext) -> Response:
        """Validate a body of create or of batch. Raises ApiError when it is too large, and without Kafka."""
        is_batch = await self._turns.run(len(body), partial(_is_batch, body))
        if not is_batch and len(body) > self._body_bytes:
            raise too_large(self._body_bytes)
        items = await self._validator.items(body) if is_batch else [body]
        try:
            partitions = await self._topic.partition_count()
        except TallyError:
            message = "Kafka (TALLY_KAFKA) does not answer, so partitions are not known: retry shortly"
            raise unavailable(message) from None
        results, valid = list[bytes](), 0
        for index, item in enumerate(items):
            found = await self._validator.validate(item)
            result = validation_of(index, found, _context_of(index, context, is_batch), partitions)
            valid += result.valid
            results.append(result.model_dump_json().encode())
            await asyncio.sleep(0)  # an event takes about 0.1 ms, and other requests wait
        head = b'{"valid":%d,"invalid":%d,"results":[' % (valid, len(items) - valid)
        return ChunkedJsonResponse([head, b",".join(results), b"]}"])


def _context_of(index: int, context: DryRunContext, is_batch: bool) -> DryRunContext:
    """Return the values that decide about an event: a batch has a key for each, only a batch can be exempt."""
    if not is_batch:
        return context._replace(deduplicate=True)
    key = context.idempotency_key
    return context if key is None else context._replace(idempotency_key=f"{key}#{index}")


def _is_batch(body: bytes) -> bool:
    """Return whether a body has the key of a batch. One that is not JSON is an event, whose error create words."""
    try:
        return msgspec.json.decode(body, type=_BatchKey).interactions is not UNSET
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


def validation_of(
    index: int, found: ValidEvent | Sequence[Rejection], context: DryRunContext, partitions: int
) -> ItemValidation:
    """Return the answer for one event, with the errors of create, or with derived values and warnings."""
    if not isinstance(found, ValidEvent):
        error = refusal_of_create(found)
        problems = error.details["validation_errors"]
        return ItemValidation(index=index, valid=False, message=error.message, validation_errors=problems)
    now_ms = time.time_ns() // 1_000_000
    return ItemValidation(
        index=index,
        valid=True,
        derived=_derived(found, context, partitions, now_ms),
        warnings=list(tracking_warnings(found, context.query_path, now_ms)),
    )


def _derived(valid: ValidEvent, context: DryRunContext, partitions: int, now_ms: int) -> DerivedValues:
    event, occurred_ms = AcceptedEvent.validated(valid), valid.occurred_ms
    token = None if event.execution_id else context.idempotency_key
    return DerivedValues(
        namespace=context.namespace,
        event_time=None if occurred_ms is None else iso_ms(from_epoch_ms(min(occurred_ms, now_ms))),
        event_time_clamped=_is_future(occurred_ms, now_ms),
        backfill=occurred_ms is not None,
        deduplication=_deduplication(event, context, token),
        partition=partition_of(partition_key(context.namespace, event, token), partitions),
    )


def _deduplication(event: AcceptedEvent, context: DryRunContext, token: str | None) -> DeduplicationPlan:
    key = dedup_key(context.namespace, event.execution_id, event.feature_id, event.types, token)
    if key is None or not context.deduplicate:
        return DeduplicationPlan(rule="none")
    if not event.execution_id:
        return DeduplicationPlan(rule="idempotency_key", key=key.hex(), idempotency_key=token)
    return DeduplicationPlan(
        rule="execution",
        key=key.hex(),
        execution_id=event.execution_id,
        feature_id=event.feature_id,
        interaction_type=sorted(set(event.types)),
    )


def tracking_warnings(valid: ValidEvent, query_path: Sequence[str], now_ms: int) -> Iterator[EventWarning]:
    event: Any = valid.event
    if warning := warning_for(event.feature_uri):
        yield EventWarning(code="no_feature_uri", message=warning)
    size = event.result_set_size
    holds: dict[WarningCode, bool] = {
        "no_execution_id": not event.execution_id,
        "no_retriever_id": not event.retriever_id,
        "no_query_text": not _has_query_text(event.query_snapshot, query_path),
        "position_outside_results": bool(size) and event.position >= size,
        "future_event_time": _is_future(valid.occurred_ms, now_ms),
    }
    for code, is_given in holds.items():
        if is_given:
            yield EventWarning(code=code, message=MESSAGES[code])


def _has_query_text(snapshot: Raw, path: Sequence[str]) -> bool:
    found = json.loads(bytes(snapshot))
    for key in path:
        found = found.get(key) if isinstance(found, dict) else None
    return isinstance(found, str) and bool(found.strip())


def _is_future(occurred_ms: int | None, now_ms: int) -> bool:
    return occurred_ms is not None and occurred_ms > now_ms
