"""Requests of the reader: outcomes of single events, lists and deletions."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from fastapi import Request, Response
from pydantic import BaseModel

from readers.export_request import Exports
from readers.list_request import HeldPages, ListQuery, answer_list
from readers.lookup import Lookups
from readers.outcome_groups import OutcomeGroupsQuery, read_outcome_groups
from readers.outcomes import OutcomeQuery, read_outcomes
from readers.progress import ConsumerProgress
from readers.report_request import Reports
from readers.session_erasure import SessionErasure
from readers.waiting import LookupResult, OutcomeWaiter
from runtime.deletions import Deletion, Deletions
from runtime.errors import StatementTimeout
from runtime.http.answer import Answer, json_answer
from runtime.http.errors import ApiError, not_found, problem, unavailable
from runtime.http.in_flight import InFlightLimit
from runtime.http.prefer import preference_applied
from runtime.http.service import Stores
from runtime.http.turns import TurnQueue
from runtime.settings import Settings
from schemas.identity import is_interaction_id
from schemas.outcome import Deleted, DuplicateOf, RejectedFor, Stored
from schemas.record import encode_record

DELETION_PAUSE_S = 0.05
StatusName = Literal["accepted", "stored", "duplicate", "rejected", "deleted", "unknown"]


class DeleteResponse(BaseModel):
    """Confirmation of a deletion."""

    message: str
    success: Literal[True] = True


class EventStatus(BaseModel):
    """Current status of an event. `accepted` means that it may be in flight."""

    interaction_id: str
    status: StatusName
    duplicate_of: str | None = None
    reason: str | None = None
    field: str | None = None
    message: str | None = None
    replayed_as: str | None = None


class Reader:
    """Reader of one process: from requests, each of one namespace, to the tables. Raises ApiError and Unavailable."""

    def __init__(
        self, settings: Settings, stores: Stores, progress: ConsumerProgress, sessions: SessionErasure
    ) -> None:
        self._settings = settings
        self._lists = stores.lists
        self.list_limit = InFlightLimit(settings.lists_in_flight, "lists", "TALLY_LISTS_IN_FLIGHT")
        self._turns = TurnQueue()
        self._held = HeldPages(settings)
        self._lookups = Lookups(stores.lookups, settings.lookup_in_flight)
        self.waiting = OutcomeWaiter(self._lookups, progress, settings.waiters)
        self.progress = progress
        self._deletions = Deletions(stores.lookups)
        self._sessions = sessions
        self.exports = Exports(settings, stores.lists)
        self.reports = Reports(settings, stores.lists)

    async def close(self) -> None:
        """Stop background tasks."""
        await self._lookups.close()

    async def get(self, namespace: str, interaction_id: str, seconds: float | None) -> Answer:
        """Return the record of an event, after a wait of at most `seconds`, or TALLY_READ_WAIT_MS without them."""
        check_id(interaction_id)
        wait = self._settings.read_wait_ms / 1000 if seconds is None else seconds
        found, in_flight = await self.waiting.outcome(namespace, interaction_id, wait)
        headers = preference_applied(seconds)
        match found:
            case Stored(row):
                return Answer.of(200, encode_record(row), headers)
            case DuplicateOf(owner_id):
                owner = await self._lookups.get(namespace, owner_id)
                if not isinstance(owner, Stored):
                    raise not_found(interaction_id, "deleted")
                headers["X-Duplicate-Of"] = owner_id
                return Answer.of(200, encode_record(owner.row, deduplicated=True), headers)
            case RejectedFor():
                raise _rejected(found)
            case Deleted():
                raise not_found(interaction_id, "deleted")
        if in_flight:
            raise not_found(interaction_id, "in_flight", {"Retry-After": "1"})
        raise not_found(interaction_id)

    async def status(self, namespace: str, interaction_id: str) -> EventStatus:
        """Return the current status of an event."""
        check_id(interaction_id)
        return status_of(interaction_id, await self.waiting.lookup(namespace, interaction_id))

    async def delete(self, namespace: str, interaction_id: str) -> DeleteResponse:
        """Delete an event from lookups, lists and views for good. Safe to repeat.

        An event that is in flight for longer than TALLY_READ_WAIT_MS is stored as deleted. An event that is being
        stored is erased here, although the consumer does so, too, because the consumer may crash in between.
        """
        check_id(interaction_id)
        deadline = time.monotonic() + self._settings.read_wait_ms / 1000
        gone = Deletion(interaction_id, namespace)
        await self._deletions.note(gone)
        message = f"interaction {interaction_id} is deleted"
        with self.waiting.slot() as has_slot:
            while True:
                # Read before the lookup, which so finds every outcome of an event that was not in flight.
                in_flight = self.progress.may_be_in_flight(interaction_id)
                if await self._deletions.is_recorded(gone):
                    async with self._sessions.around(gone):
                        await self._deletions.erase([gone])
                    break
                if not (in_flight and has_slot and time.monotonic() < deadline):
                    message = (
                        f"no interaction {interaction_id} is stored in namespace {namespace}; the deletion is "
                        "recorded, and applies if the event arrives"
                    )
                    break
                await asyncio.sleep(DELETION_PAUSE_S)
        return DeleteResponse(message=message)

    async def list(self, request: Request, namespace: str, query: ListQuery) -> Response:
        """Return a page of records."""
        with self.list_limit.slot():
            return await answer_list(request, self._settings, self._lists, self._held, self._turns, namespace, query)

    async def outcomes(self, namespace: str, query: OutcomeQuery) -> Response:
        """Return a page of outcomes of events that were not stored."""
        with self._bounded_list():
            results, following = await read_outcomes(self._lists, self._settings.list_timeout_ms, namespace, query)
        return json_answer({"results": results, "next_cursor": following}).response()

    async def outcome_groups(self, namespace: str, query: OutcomeGroupsQuery) -> Response:
        """Return the numbers of events that were not stored, by one of their values."""
        with self._bounded_list():
            found = await read_outcome_groups(self._lists, self._settings.list_timeout_ms, namespace, query)
        return json_answer(found).response()

    @contextmanager
    def _bounded_list(self) -> Iterator[None]:
        """Take one of the slots of lists. Raises ApiError without one, and when the query takes too long."""
        try:
            with self.list_limit.slot():
                yield
        except StatementTimeout:
            raise unavailable("the list takes longer than TALLY_LIST_TIMEOUT_MS: use a shorter time range") from None


def check_id(interaction_id: str) -> None:
    """Raise ApiError 404 for a text that is no id."""
    if not is_interaction_id(interaction_id):
        raise not_found(interaction_id)


def status_of(interaction_id: str, looked: LookupResult) -> EventStatus:
    """Return the status of an event."""
    match looked.outcome:
        case Stored():
            return EventStatus(interaction_id=interaction_id, status="stored")
        case DuplicateOf(owner_id):
            return EventStatus(interaction_id=interaction_id, status="duplicate", duplicate_of=owner_id)
        case RejectedFor(reason, field, message, replayed_as):
            return EventStatus(
                interaction_id=interaction_id,
                status="rejected",
                reason=reason,
                field=field or None,
                message=message,
                replayed_as=replayed_as or None,
            )
        case Deleted():
            return EventStatus(interaction_id=interaction_id, status="deleted")
    return EventStatus(interaction_id=interaction_id, status="accepted" if looked.in_flight else "unknown")


def _rejected(found: RejectedFor) -> ApiError:
    error = problem(found.reason, found.field.split(".") if found.field else [], found.message)
    details: dict[str, Any] = {"validation_errors": [error]}
    if found.replayed_as:
        details["replayed_as"] = found.replayed_as
    return ApiError(422, f"the event was rejected: {found.reason}", code=found.reason, details=details)
