"""The reader's endpoints."""

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import BaseModel

from readers.deletion import Deleting
from readers.list_request import DESCRIPTION, ListQuery, ListResponse, answer_list
from readers.lookup import Lookups
from readers.outcomes import OutcomePage, Wanted, read_outcomes
from readers.progress import Progress
from readers.waiting import Looked, Waiting
from runtime.clickhouse import ClickHouse
from runtime.errors import TookTooLong
from runtime.http import openapi
from runtime.http.access import Caller
from runtime.http.admission import admitted
from runtime.http.body import json_response
from runtime.http.errors import ApiError, forbidden, invalid, not_found, problem, unavailable
from runtime.http.prefer import applied, wait_s
from runtime.http.service import Base, Check, Stores
from runtime.migrate import check_schema
from runtime.settings import Settings
from schemas.event_time import parse_time_or_day
from schemas.identity import ID_LENGTH, PREFIX, is_interaction_id
from schemas.outcome import Deleted, DuplicateOf, Outcome, RejectedFor, Stored
from schemas.record import InteractionRecord, record_from_row

PATH = "/v1/retrievers/interactions"
MAX_PAGE = 1_000

InteractionId = Annotated[str, Path(description=f"{PREFIX} and 32 hex digits", examples=[f"{PREFIX}{'0' * 32}"])]
Text = Annotated[str | None, Query(max_length=512)]


class DeleteResponse(BaseModel):
    """It is gone."""

    message: str
    success: Literal[True] = True


class Status(BaseModel):
    """How far an event has come. `accepted`: it may be on its way."""

    interaction_id: str
    status: Literal["accepted", "stored", "duplicate", "rejected", "deleted", "unknown"]
    duplicate_of: str | None = None
    reason: str | None = None
    field: str | None = None
    message: str | None = None
    replayed_as: str | None = None


class ReaderPart:
    """The reader, as a part of an API."""

    def __init__(self) -> None:
        self._settings: Settings
        self._lists: ClickHouse
        self._watched: ClickHouse
        self._lists_running = 0
        self._lookups: Lookups
        self._progress: Progress
        self._waiting: Waiting
        self._deleting: Deleting

    @asynccontextmanager
    async def opened(self, base: Base, stores: Stores) -> AsyncIterator[Mapping[str, Check]]:
        """Begin to follow how far the consumers are."""
        settings = self._settings = base.settings
        lookups, self._lists, self._watched = stores.lookups, stores.lists, stores.watched
        self._lookups = Lookups(lookups, settings.lookup_in_flight)
        self._progress = Progress(settings)
        self._waiting = Waiting(self._lookups, self._progress, settings.waiters)
        self._deleting = Deleting(lookups, self._progress, self._waiting, settings.read_wait_ms / 1000)
        async with AsyncExitStack() as stack:
            if settings.kafka:
                await stack.enter_async_context(self._progress.followed())
            yield {
                "clickhouse": Check(self._database_answers),
                "progress": Check(self._progress.check, needed=False),
            }

    async def _database_answers(self) -> None:
        await check_schema(self._settings, self._watched)

    @contextmanager
    def _a_list(self) -> Iterator[None]:
        """Lists may take long; they have connections of their own, and few enough wait for one. Raises 503."""
        if self._lists_running >= self._settings.lists_in_flight:
            raise unavailable("many lists are being made already (TALLY_LISTS_IN_FLIGHT): again in a moment")
        self._lists_running += 1
        try:
            yield
        finally:
            self._lists_running -= 1

    async def outcome(self, namespace: str, interaction_id: str, seconds: float) -> Outcome | None:
        """What became of an event, waiting for it so long at most. Raises Unavailable."""
        return (await self._waiting.outcome(namespace, interaction_id, seconds)).outcome

    def routes(self, base: Base) -> APIRouter:
        """Get, status, list, delete, outcomes."""
        router = APIRouter(tags=["interactions"])
        reader, deleter = admitted(base, "read"), admitted(base, "delete")

        @router.post(
            f"{PATH}/list",
            responses=openapi.answers(408, 413, 415, ok=ListResponse),
            openapi_extra=DESCRIPTION,
        )
        async def list_interactions(
            request: Request, caller: Annotated[Caller, Depends(reader)], query: Annotated[ListQuery, Query()]
        ) -> Response:
            """Records by filter, newest first unless sorted. Pages neither skip nor repeat while writes go on."""
            with self._a_list():
                return await answer_list(request, self._settings, self._lists, caller.namespace, query)

        @router.get(
            f"{PATH}/{{interaction_id}}",
            responses=openapi.answers(404, ok=InteractionRecord),
        )
        async def get_interaction(
            request: Request, interaction_id: InteractionId, caller: Annotated[Caller, Depends(reader)]
        ) -> Response:
            """One interaction. Young ones that are not stored yet are waited for.

            A duplicate answers its owner's record and `X-Duplicate-Of`; a rejected event 422 and why.
            """
            seconds = wait_s(request, base.settings.prefer_wait_ms)
            return await self._get(caller.namespace, interaction_id, seconds)

        @router.get(f"{PATH}/{{interaction_id}}/status", response_model=Status, responses=openapi.answers(404))
        async def get_status(interaction_id: InteractionId, caller: Annotated[Caller, Depends(reader)]) -> Status:
            """What became of an event, at once."""
            _check_id(interaction_id)
            return _status(interaction_id, await self._waiting.look(caller.namespace, interaction_id))

        @router.delete(f"{PATH}/{{interaction_id}}", response_model=DeleteResponse, responses=openapi.answers(404))
        async def delete_interaction(
            interaction_id: InteractionId, caller: Annotated[Caller, Depends(deleter)]
        ) -> DeleteResponse:
            """Delete an interaction for good: stored, on its way, or to come again. Safe to repeat."""
            _check_id(interaction_id)
            await self._deleting.delete(caller.namespace, interaction_id)
            return DeleteResponse(message=f"interaction {interaction_id} is deleted")

        @router.get("/v1/outcomes", response_model=OutcomePage, responses=openapi.answers(), tags=["outcomes"])
        async def outcomes(
            caller: Annotated[Caller, Depends(reader)],
            verdict: Annotated[Literal["duplicate", "rejected"] | None, Query()] = None,
            reason: Text = None,
            user_id: Text = None,
            execution_id: Text = None,
            since: Annotated[str | None, Query(description="ISO 8601, of recording")] = None,
            until: Annotated[str | None, Query(description="ISO 8601, not included")] = None,
            limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 100,
            cursor: Annotated[str | None, Query(max_length=ID_LENGTH)] = None,
            unattributed: Annotated[bool, Query(description="of no namespace; needs the scope admin")] = False,
        ) -> Response:
            """What did not get stored: duplicates and rejections, newest first, with the reason in words."""
            if unattributed and "admin" not in caller.scopes:
                raise forbidden("records of no namespace need a key with the scope 'admin'")
            wanted = Wanted(verdict, reason, user_id, execution_id, _time("since", since), _time("until", until))
            if cursor is not None and not is_interaction_id(cursor):
                raise invalid([problem("bad_cursor", ["query", "cursor"], "is no cursor of this API")])
            namespace = "" if unattributed else caller.namespace
            return await self._outcomes(namespace, wanted, limit, cursor)

        return router

    async def _get(self, namespace: str, interaction_id: str, seconds: float | None) -> Response:
        _check_id(interaction_id)
        wait = self._settings.read_wait_ms / 1000 if seconds is None else seconds
        found, in_flight = await self._waiting.outcome(namespace, interaction_id, wait)
        headers = applied(seconds)
        match found:
            case Stored(row):
                return json_response(record_from_row(row), headers)
            case DuplicateOf(owner_id):
                owner = await self._lookups.get(namespace, owner_id)
                if not isinstance(owner, Stored):
                    raise not_found(interaction_id, "deleted")
                return json_response(
                    record_from_row(owner.row, deduplicated=True), headers | {"X-Duplicate-Of": owner_id}
                )
            case RejectedFor():
                raise _rejected(found)
            case Deleted():
                raise not_found(interaction_id, "deleted")
        if in_flight:
            raise not_found(interaction_id, "in_flight", {"Retry-After": "1"})
        raise not_found(interaction_id)

    async def _outcomes(self, namespace: str, wanted: Wanted, limit: int, cursor: str | None) -> Response:
        settings = self._settings
        try:
            with self._a_list():
                results, following = await read_outcomes(
                    self._lists, settings.list_timeout_ms, namespace, wanted, limit, cursor
                )
        except TookTooLong:
            raise unavailable("this takes longer than TALLY_LIST_TIMEOUT_MS: ask for less time") from None
        return json_response({"results": results, "next_cursor": following})


def _check_id(interaction_id: str) -> None:
    if not is_interaction_id(interaction_id):
        raise not_found(interaction_id)


def _status(interaction_id: str, looked: Looked) -> Status:
    match looked.outcome:
        case Stored():
            return Status(interaction_id=interaction_id, status="stored")
        case DuplicateOf(owner_id):
            return Status(interaction_id=interaction_id, status="duplicate", duplicate_of=owner_id)
        case RejectedFor(reason, field, message, replayed_as):
            return Status(
                interaction_id=interaction_id,
                status="rejected",
                reason=reason,
                field=field or None,
                message=message,
                replayed_as=replayed_as or None,
            )
        case Deleted():
            return Status(interaction_id=interaction_id, status="deleted")
    return Status(interaction_id=interaction_id, status="accepted" if looked.in_flight else "unknown")


def _rejected(found: RejectedFor) -> ApiError:
    error = problem(found.reason, found.field.split(".") if found.field else [], found.message)
    details: dict[str, Any] = {"validation_errors": [error]}
    if found.replayed_as:
        details["replayed_as"] = found.replayed_as
    return ApiError(422, f"the event was rejected: {found.reason}", code=found.reason, details=details)


def _time(name: str, text: str | None) -> Any:
    try:
        return None if text is None else parse_time_or_day(text)
    except ValueError as error:
        raise invalid([problem("bad_time", ["query", name], str(error))]) from None
