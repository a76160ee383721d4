"""Intake of events: read, validate, put on the topic, wait for Kafka's acknowledgement, respond."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from functools import partial
from typing import Any, NamedTuple

import msgspec

from producers import batches
from producers.collector.accepted import AcceptedEvent
from producers.collector.budget import InFlightBudget, Reservation
from producers.collector.bulk import MIN_EVENTS, Bulk, ScannedBatch, encode_bulk, scan_items
from producers.collector.creates import Create, Created, Creates
from producers.collector.events import RequestValidator, error_of_item, refusal_of_all, refusal_of_create, run_by_size
from producers.collector.hints import DuplicateHints
from producers.collector.outcome_headers import PENDING, headers_of_created
from producers.collector.refusals import Endpoint, RefusalCounter
from producers.deliveries import OutgoingRecord, error_of
from producers.topic import TopicWriter
from runtime import traces
from runtime.errors import RecordRefused, TallyError, Unavailable
from runtime.http.answer import Answer, json_answer
from runtime.http.best_effort import BestEffortRedis
from runtime.http.errors import ApiError, invalid, problem, unavailable
from runtime.settings import Settings
from schemas.identity import mint_id
from schemas.outcome import DuplicateOf, Outcome, RejectedFor
from schemas.record import record_from_text
from schemas.rejection import Rejection
from schemas.wire import ValidEvent, encode_headers

WaitFor = Callable[[str, str, float], Awaitable[Outcome | None]]
"""Function that returns the outcome of (namespace, id), or None when it is not final within the seconds given."""

REFUSED_BY_BROKER = "refused_by_broker"
NOT_ACKNOWLEDGED = (
    "Kafka did not acknowledge the event in time (TALLY_COLLECTOR_ACK_MS). It may still arrive: send it again with the "
    "same execution_id or Idempotency-Key"
)


class _ValidatedItems(NamedTuple):
    """Valid events of a batch, encoded together or as a record each, and rejections of the others, by index."""

    bulk: Bulk | None
    records: dict[int, OutgoingRecord]
    refused: dict[int, Sequence[Rejection]]

    def ids(self) -> dict[int, str]:
        """Return the ids of the valid events."""
        ids = {index: record.interaction_id for index, record in self.records.items()}
        return ids if self.bulk is None else ids | dict(zip(self.bulk.indexes, self.bulk.ids, strict=True))


class Collector:
    """Collector of one process: from requests to the topic."""

    def __init__(
        self, settings: Settings, topic: TopicWriter, redis: BestEffortRedis, wait_for: WaitFor | None
    ) -> None:
        self._topic = topic
        self._budget = InFlightBudget(settings)
        self.validator = RequestValidator(settings)
        self._hints = DuplicateHints(settings, redis)
        self._creates = Creates(self._topic, self._hints, settings.http_event_bytes)
        self._event_bytes = settings.http_event_bytes
        self._wait_for = wait_for
        self.refusals = RefusalCounter(settings, redis)

    async def close(self) -> None:
        """Stop background tasks."""
        await self._creates.close()
        await self._hints.close()

    def reserve(self) -> AbstractContextManager[Reservation]:
        """Open the reservation of one request, which bounds its body and its events."""
        return self._budget.reserve()

    async def create(
        self, reservation: Reservation, body: bytes, namespace: str, idempotency_key: str | None, seconds: float | None
    ) -> Answer:
        """Accept one event."""
        reservation.take(events=1)
        event, interaction_id, append_ms, first = await self._created(body, namespace, idempotency_key)
        reservation.release()
        self.refusals.count_accepted("create", namespace, 1)
        final, waited = None, None
        if seconds is not None and self._wait_for is not None:
            # Kafka has the event: an error of the wait must not make the client send it again.
            with suppress(TallyError):
                final, waited = await self._wait_for(namespace, interaction_id, seconds), seconds
        headers = headers_of_created(interaction_id, final, waited)
        if isinstance(final, RejectedFor):
            raise _rejected(final, headers)
        if final is not None:
            first = final.interaction_id if isinstance(final, DuplicateOf) else None
        if first is not None:
            headers["X-Duplicate-Of"] = first
        answer = record_from_text(
            event.text, interaction_id, append_ms, occurred_ms=event.occurred_ms, deduplicated=first is not None
        )
        return json_answer(answer, headers)

    async def _created(self, body: bytes, namespace: str, idempotency_key: str | None) -> Created:
        """Create an event. Raises ApiError when it is invalid, or Kafka does not acknowledge it."""
        new_future = asyncio.get_running_loop().create_future
        create = Create(namespace, body, idempotency_key, traces.current_traceparent(), new_future())
        try:
            created = await self._creates.create(create)
            if created is None:
                validated = await self.validator.validate(body)
                if not isinstance(validated, ValidEvent):
                    self.refusals.count_event("create", namespace, validated[0])
                    raise refusal_of_create(validated)
                create.event, create.future = AcceptedEvent.validated(validated), new_future()
                created = await self._creates.create(create)
        except TallyError as error:
            self._count_refused_by_broker("create", namespace, error)
            raise _not_acknowledged(error) from error
        assert created is not None  # noqa: S101  (it is validated)
        return created

    async def batch(
        self, reservation: Reservation, body: bytes, namespace: str, idempotency_key: str | None, *, deduplicate: bool
    ) -> Answer:
        """Accept many events, each by itself. Item i of a batch with a key has the key KEY#i."""
        if idempotency_key is None and batches.is_known():
            scanned = await self.validator.scan_body(body)
            if scanned is not None:
                headers = encode_headers(namespace, deduplicate=deduplicate, traceparent=traces.current_traceparent())
                sending = _ValidatedItems(await self._encoded(scanned, len(body), namespace, headers), {}, {})
                answer, _ = await self._send_all(sending, len(scanned.indexes), reservation, "batch", namespace)
                return answer
        items = await self._read("batch", namespace, self.validator.items(body))
        keys = [f"{idempotency_key}#{index}" for index in range(len(items))] if idempotency_key else None
        sending = await self._validated(items, namespace, "batch", keys=keys, deduplicate=deduplicate)
        answer, _ = await self._send_all(sending, len(items), reservation, "batch", namespace)
        return answer

    async def page(self, reservation: Reservation, body: bytes, namespace: str) -> Answer:
        """Accept a page's events: 204, or the list of failed ones, or 422 when none is valid."""
        items = await self._read("beacon", namespace, self.validator.page_items(body))
        sending = await self._validated(items, namespace, "beacon")
        if not sending.records and sending.bulk is None:
            raise refusal_of_all(sending.refused)
        answer, send_error = await self._send_all(sending, len(items), reservation, "beacon", namespace)
        if send_error is not None:  # a page sees the status only, and sends all events again
            raise _not_acknowledged(send_error)
        return answer if sending.refused else Answer.of(204, b"")

    async def _read(self, route: Endpoint, namespace: str, items: Awaitable[list[msgspec.Raw]]) -> list[msgspec.Raw]:
        """Return the events of a body. Counts the ApiError of a body that is not a batch."""
        try:
            return await items
        except ApiError as error:
            self.refusals.count_request(route, namespace, error)
            raise

    def _count_refused_by_broker(self, route: Endpoint, namespace: str, error: TallyError) -> None:
        if isinstance(error, RecordRefused):
            self.refusals.count_refused(route, namespace, REFUSED_BY_BROKER, "", str(error))

    async def _validated(
        self,
        items: Sequence[msgspec.Raw],
        namespace: str,
        route: Endpoint,
        *,
        keys: Sequence[str] | None = None,
        deduplicate: bool = True,
    ) -> _ValidatedItems:
        """Validate events, and make the records of the valid ones. `keys` are their idempotency keys."""
        traceparent, records, refused = traces.current_traceparent(), dict[int, OutgoingRecord](), dict[int, Any]()
        headers = encode_headers(namespace, deduplicate=deduplicate, traceparent=traceparent)
        bulk, rest = None, [*range(len(items))]
        if keys is None and len(items) >= MIN_EVENTS and batches.is_known():
            size = sum(map(len, items))
            scanned = await run_by_size(size, partial(scan_items, max_bytes=self._event_bytes), items)
            if scanned is not None:
                bulk = await self._encoded(scanned, size, namespace, headers)
                rest = [] if len(bulk.indexes) == len(items) else sorted({*rest} - {*bulk.indexes})
        ids, validated = mint_id.many(len(rest)), await self.validator.validate_all([items[index] for index in rest])
        for index, interaction_id, event in zip(rest, ids, validated, strict=True):
            if not isinstance(event, AcceptedEvent):
                refused[index] = event
                self.refusals.count_event(route, namespace, event[0])
            elif keys is None or event.execution_id:
                records[index] = event.record(namespace, interaction_id, None, headers)
            else:
                own = encode_headers(
                    namespace, idempotency_key=keys[index], deduplicate=deduplicate, traceparent=traceparent
                )
                records[index] = event.record(namespace, interaction_id, keys[index], own)
        return _ValidatedItems(bulk, records, refused)

    async def _encoded(
        self, scanned: ScannedBatch, size: int, namespace: str, headers: Sequence[tuple[str, bytes]]
    ) -> Bulk:
        """Encode scanned events of `size` bytes. Raises ApiError when Kafka does not answer."""
        try:
            partitions = await self._topic.partition_count()
        except TallyError as error:
            raise _not_acknowledged(error) from error
        encode = partial(encode_bulk, partitions=partitions, namespace=namespace, headers=headers)
        return await run_by_size(size, encode, scanned)

    async def _send_all(
        self, sending: _ValidatedItems, count: int, reservation: Reservation, route: Endpoint, namespace: str
    ) -> tuple[Answer, TallyError | None]:
        """Send valid events. Also return the last send error. Raises ApiError when none was sent."""
        ids, failed = sending.ids(), {index: error_of_item(index, why) for index, why in sending.refused.items()}
        reservation.take(events=len(ids))
        send_error: TallyError | None = None
        for index, send_error in (await self._send_errors(sending)).items():
            self._count_refused_by_broker(route, namespace, send_error)
            failed[index] = f"{index}: {NOT_ACKNOWLEDGED if isinstance(send_error, Unavailable) else send_error}"
        self.refusals.count_accepted(route, namespace, count - len(failed))
        if send_error is not None and len(failed) == count:
            raise _not_acknowledged(send_error)
        errors = [failed[index] for index in sorted(failed)] or None
        results = _results(ids, failed, count)
        answer = {"created": count - len(failed), "failed": len(failed), "errors": errors, "results": results}
        return json_answer(answer, PENDING if len(failed) < count else None), send_error

    async def _send_errors(self, sending: _ValidatedItems) -> dict[int, TallyError]:
        """Send valid events, and return the errors of those that were not acknowledged, by index."""
        bulk, records = sending.bulk, sending.records
        deliveries = [] if bulk is None else await self._topic.send_encoded(bulk.encoded)
        outcomes = await self._topic.put_all(list(records.values())) if records else []
        errors = {index: found for index, found in zip(records, outcomes, strict=True) if isinstance(found, TallyError)}
        of_batch = [await error_of(each) for each in deliveries]
        if bulk is not None and any(of_batch):
            for index, batch in zip(bulk.indexes, bulk.encoded.batch_of.tolist(), strict=True):
                if (error := of_batch[batch]) is not None:
                    errors[index] = error
        return errors


def _results(ids: Mapping[int, str], failed: Mapping[int, str], count: int) -> msgspec.Raw:
    """Return the JSON list of a batch's results. Objects for the encoder would take three times as long."""
    results = [
        f'{{"index":{index},"interaction_id":"","status":"failed"}}'
        if index in failed
        else f'{{"index":{index},"interaction_id":"{ids[index]}","status":"created"}}'
        for index in range(count)
    ]
    return msgspec.Raw(f"[{','.join(results)}]".encode())


def _not_acknowledged(error: Exception) -> ApiError:
    if isinstance(error, RecordRefused):
        return ApiError(422, str(error), code=REFUSED_BY_BROKER)
    return unavailable(NOT_ACKNOWLEDGED)


def _rejected(final: RejectedFor, headers: dict[str, str]) -> ApiError:
    """Return the error response for an event that a worker rejected while the request waited."""
    error = invalid([problem(final.reason, final.field.split("."), final.message)], code=final.reason)
    error.headers |= headers
    return error
