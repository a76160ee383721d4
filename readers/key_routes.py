"""Endpoints of API keys: the caller's own key; list, create and revoke with the scope admin."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from runtime.http.access import Access, Caller
from runtime.http.body import read_body, read_model
from runtime.http.errors import ApiError, forbidden, truncate
from runtime.http.in_flight import InFlightLimit
from runtime.http.key_store import KeyStore, ListedKey
from runtime.http.keys import ROOT, SCOPES, Scope
from runtime.http.openapi import error_responses, request_body
from runtime.http.readiness import Check
from runtime.http.service import AppContext, Stores
from runtime.http.times import AnswerTime
from runtime.settings import Settings
from schemas.wire import check_namespace

PATH = "/v1/keys"
MAX_KEYS_LISTED = 1_000
MAX_KEY_NAME_CHARACTERS = 200
MAX_KEY_NAMESPACES = 100
"""Maximum namespaces of a key that is created over HTTP."""
MAX_RATE_PER_S = 1_000_000
_SHOWN_CHARACTERS = 64
_EXAMPLE = {"name": "shop-backend", "scopes": ["write", "read"], "namespaces": ["shop"]}
_RATE = "requests per second; 0: TALLY_RATE_LIMIT_PER_S"

log = logging.getLogger("tally.api")


def _printable(name: str) -> str:
    if not name.isprintable() or name != name.strip():
        raise ValueError("a name has no control character, and no blank at either end")
    return name


GrantedNamespace = Annotated[str, AfterValidator(check_namespace)]
KeyId = Annotated[str, Path(description="the eight characters after tk_", examples=["1f2e3d4c"], max_length=100)]


class OwnKey(BaseModel):
    """API key of the caller."""

    key_id: str = Field(examples=["1f2e3d4c"], description=f"{ROOT}: TALLY_API_KEY")
    name: str | None = Field(description="null: TALLY_API_KEY, which has no name")
    scopes: list[Scope]
    namespaces: list[str]
    namespace: str = Field(description="namespace of this call")
    rate_per_s: int = Field(description=_RATE)


class KeyDescription(BaseModel):
    """API key without its secret."""

    key_id: str
    name: str
    scopes: list[Scope]
    namespaces: list[str]
    rate_per_s: int = Field(description=_RATE)
    created_at: AnswerTime
    revoked_at: AnswerTime | None = Field(description="null: valid")

    @classmethod
    def of(cls, key: ListedKey) -> "KeyDescription":
        """Describe a key."""
        return cls.model_validate(key._asdict())


class KeyList(BaseModel):
    """API keys, valid ones first, then the newest."""

    keys: list[KeyDescription]
    truncated: bool = Field(description="whether the limit left keys out")


class KeyListQuery(BaseModel):
    """Bound of the list."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(MAX_KEYS_LISTED, ge=1, le=MAX_KEYS_LISTED, description="maximum keys")


class KeyRequest(BaseModel, extra="forbid", strict=True):
    """API key to create."""

    name: Annotated[str, AfterValidator(_printable)] = Field(min_length=1, max_length=MAX_KEY_NAME_CHARACTERS)
    scopes: list[Scope] = Field(min_length=1, max_length=len(SCOPES))
    namespaces: list[GrantedNamespace] = Field(min_length=1, max_length=MAX_KEY_NAMESPACES)
    rate_per_s: int = Field(0, ge=0, le=MAX_RATE_PER_S, description=_RATE)


class CreatedKey(BaseModel):
    """New API key. `key` is in this answer only; the hash of it is stored."""

    key_id: str
    key: str
    name: str
    scopes: list[Scope]
    namespaces: list[str]
    rate_per_s: int = Field(description=_RATE)


class KeyModule:
    """API module of keys."""

    def __init__(self) -> None:
        self._keys: GrantedKeys

    @asynccontextmanager
    async def opened(self, base: AppContext, stores: Stores) -> AsyncIterator[Mapping[str, Check]]:
        """Use the connection of keys until the block ends."""
        store = KeyStore(stores.monitoring, base.settings.list_timeout_ms)
        self._keys = GrantedKeys(store, base.access, base.settings)
        yield {}

    def routes(self, base: AppContext) -> APIRouter:
        """Return the endpoints."""
        router, settings = APIRouter(tags=["keys"]), base.settings
        anyone, admin = base.require_scope(None), base.require_scope("admin")
        limit = InFlightLimit(settings.lists_in_flight, "requests for keys", "TALLY_LISTS_IN_FLIGHT")

        @router.get(f"{PATH}/self", response_model=OwnKey, responses=error_responses())
        async def get_own_key(caller: Annotated[Caller, Depends(anyone)]) -> OwnKey:
            """Return the key of this call: its name, scopes and namespaces. Needs no scope."""
            key = base.access.key_of(caller)
            return OwnKey(
                key_id=key.key_id,
                name=key.name or None,
                scopes=[*key.scopes],
                namespaces=[*key.namespaces],
                namespace=caller.namespace,
                rate_per_s=key.rate_per_s,
            )

        @router.get(PATH, response_model=KeyList, responses=error_responses())
        async def list_keys(
            caller: Annotated[Caller, Depends(admin)], query: Annotated[KeyListQuery, Query()]
        ) -> KeyList:
            """List keys whose namespaces are all those of the caller's key; all keys for TALLY_API_KEY."""
            with limit.slot():
                return await self._keys.list(caller, query.limit)

        @router.post(
            PATH,
            status_code=201,
            response_model=CreatedKey,
            responses=error_responses(408, 413, 415),
            openapi_extra=request_body(KeyRequest.model_json_schema(), _EXAMPLE),
        )
        async def create_key(
            request: Request, response: Response, caller: Annotated[Caller, Depends(admin)]
        ) -> CreatedKey:
            """Create a key with scopes and namespaces of the caller's key. It cannot be read again."""
            response.headers["Cache-Control"] = "no-store"
            with limit.slot():
                body = await read_body(
                    request.scope,
                    request.receive,
                    settings.http_list_bytes,
                    settings.http_body_timeout_ms,
                    lambda _size: None,
                )
                return await self._keys.create(caller, read_model(KeyRequest, body))

        @router.delete(f"{PATH}/{{key_id}}", response_model=KeyDescription, responses=error_responses(404))
        async def revoke_key(key_id: KeyId, caller: Annotated[Caller, Depends(admin)]) -> KeyDescription:
            """Revoke a key and the page tokens that it has signed. Safe to repeat."""
            with limit.slot():
                return await self._keys.revoke(caller, key_id)

        return router


class GrantedKeys:
    """Keys as far as the caller's key reaches: all keys for TALLY_API_KEY, else those of its own namespaces.

    At most TALLY_KEYS_VALID keys are valid. Each creation and revocation is logged.
    """

    def __init__(self, store: KeyStore, access: Access, settings: Settings) -> None:
        self._store = store
        self._access = access
        self._settings = settings
        self._creating = asyncio.Lock()

    def _reach(self, caller: Caller) -> Sequence[str] | None:
        """Return the namespaces whose keys a caller sees and creates; None: all."""
        return None if caller.key_id == ROOT else self._access.key_of(caller).namespaces

    async def list(self, caller: Caller, most: int) -> KeyList:
        """List keys."""
        found = await self._store.list_within(self._reach(caller), most + 1)
        return KeyList(keys=[KeyDescription.of(each) for each in found[:most]], truncated=len(found) > most)

    async def create(self, caller: Caller, wanted: KeyRequest) -> CreatedKey:
        """Create a key. Raises ApiError: 403 for a right that the caller's key does not have, 422 for too many keys."""
        scopes, namespaces = [*dict.fromkeys(wanted.scopes)], [*dict.fromkeys(wanted.namespaces)]
        self._check_rights(caller, scopes, namespaces)
        self._check_rate(caller, wanted.rate_per_s)
        async with self._creating:
            if (count := await self._store.count_valid()) >= self._settings.keys_valid:
                message = f"{count:,} API keys are valid (TALLY_KEYS_VALID): revoke some"
                raise ApiError(422, message, code="too_many_keys")
            key_id, key = await self._store.create(wanted.name, scopes, namespaces, wanted.rate_per_s)
        log.info("API key %s created API key %s: %s in %r", caller.key_id, key_id, ", ".join(scopes), namespaces)
        return CreatedKey(
            key_id=key_id,
            key=key,
            name=wanted.name,
            scopes=scopes,
            namespaces=namespaces,
            rate_per_s=wanted.rate_per_s,
        )

    def _check_rights(self, caller: Caller, scopes: Sequence[Scope], namespaces: Sequence[str]) -> None:
        own, reach = self._access.key_of(caller), self._reach(caller)
        if missing := [scope for scope in scopes if scope not in own.scopes]:
            raise forbidden(f"the key cannot grant the scope {missing[0]!r}, which it does not have")
        if foreign := [each for each in namespaces if reach is not None and each not in reach]:
            name = truncate(foreign[0], _SHOWN_CHARACTERS)
            raise forbidden(f"the key cannot grant the namespace {name!r}, which it is not bound to")

    def _check_rate(self, caller: Caller, rate_per_s: int) -> None:
        default = self._settings.rate_limit_per_s
        own, wanted = caller.rate_per_s or default, rate_per_s or default
        if caller.key_id != ROOT and own and (not wanted or wanted > own):
            raise forbidden(f"the key cannot grant {wanted or 'unlimited'} requests per second: it has {own} itself")

    async def revoke(self, caller: Caller, key_id: str) -> KeyDescription:
        """Revoke a key. Raises ApiError 404 for an unknown key, and for one out of the caller's reach."""
        reach = self._reach(caller)
        found = await self._store.find_within(reach, key_id)
        if found is not None and found.revoked_at is None:
            await self._store.revoke(key_id)
            log.info("API key %s revoked API key %s", caller.key_id, key_id)
            found = await self._store.find_within(reach, key_id)
        if found is None:
            raise ApiError(404, f"no key {truncate(key_id, _SHOWN_CHARACTERS)!r} (GET {PATH} lists keys)")
        return KeyDescription.of(found)
