"""Endpoints of dead letters."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Annotated, TypeVar

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import BaseModel

from runtime.http import openapi
from runtime.http.access import Caller
from runtime.http.answer import json_answer
from runtime.http.body import read_body, read_model
from runtime.http.errors import forbidden, invalid, problem
from runtime.http.readiness import Check
from runtime.http.service import AppContext, Stores
from tally.dead_letters.models import (
    LetterCheck,
    LetterCheckRequest,
    LetterContent,
    LetterGroups,
    LetterGroupsQuery,
    LetterListQuery,
    LetterPage,
    LetterQuery,
    LetterReplayReport,
    LetterReplayRequest,
)
from tally.dead_letters.service import DeadLetterService, LetterOwner

MAX_PATCH_KEYS = 10_000
"""Maximum keys of an object in a patch."""

PATH = "/v1/dead-letters"
Partition = Annotated[int, Path(ge=0, lt=2**31, description="of the rejected record", examples=[3])]
Offset = Annotated[int, Path(ge=0, lt=2**63, description="of the rejected record", examples=[1042])]
Body = TypeVar("Body", bound=BaseModel)

_CHECK_EXAMPLE = {"patch": {"position": 0}}
_REPLAY_EXAMPLE = {"reason": "wrong_type", "field": "position", "patch": {"position": 0}, "dry_run": True}


class DeadLettersModule:
    """API module of dead letters."""

    def __init__(self) -> None:
        self._service: DeadLetterService

    @asynccontextmanager
    async def opened(self, base: AppContext, stores: Stores) -> AsyncIterator[Mapping[str, Check]]:
        """Use the connection of lists; Kafka is connected when a letter is read."""
        self._service = DeadLetterService(base.settings, stores.lists)
        yield {}

    def routes(self, base: AppContext) -> APIRouter:
        """Return the endpoints: groups, list, letter, check and replay."""
        router = APIRouter(prefix=PATH, tags=["dead letters"])
        self._add_lists(router, base)
        self._add_letters(router, base)
        self._add_replay(router, base)
        return router

    def _add_lists(self, router: APIRouter, base: AppContext) -> None:
        reader = base.require_scope("read")

        @router.get("/groups", response_model=LetterGroups, responses=openapi.error_responses())
        async def groups(
            caller: Annotated[Caller, Depends(reader)], query: Annotated[LetterGroupsQuery, Query()]
        ) -> Response:
            """Count dead letters by reason and field."""
            owner = _owner(base, caller, unattributed=query.unattributed)
            return json_answer(await self._service.groups(owner, query.conditions())).response()

        @router.get("", response_model=LetterPage, responses=openapi.error_responses())
        async def list_letters(
            caller: Annotated[Caller, Depends(reader)], query: Annotated[LetterListQuery, Query()]
        ) -> Response:
            """List dead letters, newest first, with the status of their replays."""
            owner = _owner(base, caller, unattributed=query.unattributed)
            page = await self._service.page(owner, query.conditions(), query.limit, query.cursor)
            return json_answer(page).response()

    def _add_letters(self, router: APIRouter, base: AppContext) -> None:
        reader = base.require_scope("read")

        @router.get("/{partition}/{offset}", response_model=LetterContent, responses=openapi.error_responses(404))
        async def get_letter(
            partition: Partition,
            offset: Offset,
            caller: Annotated[Caller, Depends(reader)],
            query: Annotated[LetterQuery, Query()],
        ) -> Response:
            """Return a dead letter with the record's key, value and headers, and the problems of its value today."""
            owner = _owner(base, caller, unattributed=query.unattributed)
            return json_answer(await self._service.letter(owner, partition, offset)).response()

        @router.post(
            "/{partition}/{offset}/check",
            response_model=LetterCheck,
            responses=openapi.error_responses(404, 408, 413, 415),
            openapi_extra=openapi.request_body(LetterCheckRequest.model_json_schema(), _CHECK_EXAMPLE),
        )
        async def check(
            partition: Partition,
            offset: Offset,
            request: Request,
            caller: Annotated[Caller, Depends(reader)],
            query: Annotated[LetterQuery, Query()],
        ) -> Response:
            """Tell whether a dead letter is valid with a patch. Nothing is sent or stored."""
            owner = _owner(base, caller, unattributed=query.unattributed)
            asked = await _read(base, request, LetterCheckRequest)
            _require_own(owner, asked.as_namespace)
            answer = await self._service.check(owner, (partition, offset), asked.patch, asked.as_namespace)
            return json_answer(answer).response()

    def _add_replay(self, router: APIRouter, base: AppContext) -> None:
        reader = base.require_scope("read")

        @router.post(
            "/replay",
            response_model=LetterReplayReport,
            responses=openapi.error_responses(408, 413, 415),
            openapi_extra=openapi.request_body(LetterReplayRequest.model_json_schema(), _REPLAY_EXAMPLE),
        )
        async def replay(request: Request, caller: Annotated[Caller, Depends(reader)]) -> Response:
            """Put dead letters that are valid now, or with a patch, on the topic again; by default a dry run.

            Without dry_run it needs the scope write. Replaying twice stores once.
            """
            asked = await _read(base, request, LetterReplayRequest)
            if not asked.dry_run and "write" not in caller.scopes:
                raise forbidden("the key lacks the scope 'write', which a replay needs unless it is a dry_run")
            owner = _owner(base, caller, unattributed=asked.unattributed)
            _require_own(owner, asked.as_namespace)
            if asked.unattributed and asked.as_namespace is None:
                message = "is required for records without a namespace"
                raise invalid([problem("missing", ["body", "as_namespace"], message)])
            return json_answer(await self._service.replay(owner, asked)).response()


def _owner(base: AppContext, caller: Caller, *, unattributed: bool) -> LetterOwner:
    """Return the owner of the letters of a request. Raises ApiError 403 for records of nobody without the scope."""
    if unattributed and "admin" not in caller.scopes:
        raise forbidden("records without a namespace need a key with the scope 'admin'")
    others = [name for name in base.access.key_of(caller).namespaces if name != caller.namespace]
    return LetterOwner(caller.key_id, "" if unattributed else caller.namespace, (caller.namespace, *others))


def _require_own(owner: LetterOwner, namespace: str | None) -> None:
    """Raise ApiError 403 for a namespace that the caller's key is not bound to."""
    if namespace is not None and namespace not in owner.own:
        raise forbidden("the key is not bound to the namespace in as_namespace")


async def _read(base: AppContext, request: Request, model: type[Body]) -> Body:
    """Read a body of at most TALLY_HTTP_BODY_BYTES as a model. Raises ApiError."""
    limits = base.settings.http_body_bytes, base.settings.http_body_timeout_ms
    body = await read_body(request.scope, request.receive, *limits, lambda _size: None)
    return await asyncio.to_thread(read_model, model, body, MAX_PATCH_KEYS)
