"""Access control: API keys, their scopes and namespaces. It is the only source of a request's namespace."""

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from typing import NamedTuple
from urllib.parse import unquote

from runtime.clickhouse import ClickHouse
from runtime.errors import Unavailable, reason_of
from runtime.http.errors import ApiError, forbidden, unauthorized, unavailable
from runtime.http.key_store import KeyStore
from runtime.http.keys import MAX_TOKEN_LIFE_S, ROOT, SCOPES, ApiKey, PageToken, Scope, hash_of, key_id_of
from runtime.settings import Settings
from runtime.tasks import running

MAX_KEYS_AGE_S = 10.0
MISSED_REFRESHES = 10
FIRST_READ_TIMEOUT_S = 5.0
MAX_SHOWN_NAMESPACES = 5

log = logging.getLogger("tally.api")


CURRENT_KEY: ContextVar[str] = ContextVar("tally_current_key", default="")
"""Id of the key of the request that the present task serves; empty before it is authenticated."""


class Caller(NamedTuple):
    """Authenticated caller of a request. `namespace` is the only one that the request can access."""

    key_id: str
    namespace: str
    scopes: tuple[Scope, ...]
    rate_per_s: int


class Access:
    """Valid API keys. The key table is read every TALLY_KEYS_REFRESH_MS; a revocation takes effect then."""

    def __init__(self, settings: Settings) -> None:
        self._refresh_s = settings.keys_refresh_ms / 1000
        self._root: dict[str, ApiKey] = {}
        if key := settings.api_key.get_secret_value():
            self._root[ROOT] = ApiKey(ROOT, hash_of(key), SCOPES, settings.api_namespaces)
        self._keys = self._root
        self._stamp: object = None
        self._read_at = -math.inf
        self.is_loaded = False
        """Whether the key table has been read. Until then only TALLY_API_KEY is valid."""

    @asynccontextmanager
    async def refreshed(self, database: ClickHouse) -> AsyncIterator[None]:
        """Refresh keys until the block ends. While ClickHouse is unavailable, known keys stay valid."""
        store = KeyStore(database)
        # A restarted process knows its keys before its first request, if ClickHouse answers.
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_READ_TIMEOUT_S):
                await self._refresh(store)
        async with running(self._refresh_periodically(store), "refreshing API keys"):
            yield

    async def _refresh_periodically(self, store: KeyStore) -> None:
        while True:
            await asyncio.sleep(self._refresh_s)
            await self._refresh(store)

    async def _refresh(self, store: KeyStore) -> None:
        try:
            stamp = await store.version()
            if stamp != self._stamp:
                self._keys = await store.valid_keys() | self._root
                self._stamp, self.is_loaded = stamp, True
            self._read_at = time.monotonic()
        except Exception as error:  # any error: without this loop revoked keys would stay valid for ever
            log.warning("failed to refresh API keys: %s", reason_of(error))

    def caller(self, headers: Mapping[str, str], scope: Scope | None) -> Caller:
        """Authenticate a request by its headers; a key of any scopes suffices for the scope None.

        Raises ApiError: 401 without a valid key, 403 without the scope.
        """
        given, _, token = headers.get("authorization", "").partition(" ")
        if given.lower() != "bearer" or not token:
            raise unauthorized("send your API key as `Authorization: Bearer <key>` (`tally keys create` makes one)")
        token = token.strip()
        key = self._keys.get(key_id_of(token)) or self._root.get(ROOT)
        if key is None or not key.is_of(token):
            raise self._unknown("the API key is unknown or revoked (`tally keys list` shows valid ones)")
        if scope is not None and scope not in key.scopes:
            raise forbidden(f"the key lacks the scope {scope!r}", key.namespaces[0])
        return _caller_of(key, select_namespace(headers.get("x-namespace"), key))

    def page_token(self, caller: Caller, origin: str, life_s: int) -> str:
        """Return a page token of an origin. Raises ApiError 401 when the caller's key was just revoked."""
        hashed = self.key_of(caller).hashed
        return PageToken.until(caller.key_id, caller.namespace, origin, life_s).signed(hashed)

    def key_of(self, caller: Caller) -> ApiKey:
        """Return the caller's key. Raises ApiError 401 when it was just revoked."""
        key = self._keys.get(caller.key_id)
        if key is None:
            raise unauthorized("the key is unknown")
        return key

    def _unknown(self, message: str) -> ApiError:
        """Return 401, or 503 while the keys have not been read yet: a 401 is final."""
        return unauthorized(message) if self.is_loaded else unavailable("API keys are not loaded yet: retry shortly")

    async def check(self) -> None:
        """Raise Unavailable when the last refresh is too old, so that keys revoked since are still valid."""
        if time.monotonic() - self._read_at > max(MAX_KEYS_AGE_S, MISSED_REFRESHES * self._refresh_s):
            raise Unavailable("API keys could not be refreshed lately")

    def page(self, headers: Mapping[str, str], token: str) -> Caller:
        """Authenticate a page's request by its token and origin. Raises ApiError 401 or 403."""
        read = PageToken.read(token)
        if read is None:
            raise unauthorized("send the page token as ?token=")
        claims, signature = read
        key = self._keys.get(claims.key_id)
        if key is None or not claims.is_signed(token, signature, key.hashed):
            raise self._unknown("the token is unknown")
        if not claims.is_current():
            message = f"the token has expired, is not valid yet, or lasts longer than {MAX_TOKEN_LIFE_S} s"
            raise unauthorized(message, claims.namespace if claims.namespace in key.namespaces else "")
        if "write" not in key.scopes or claims.namespace not in key.namespaces:
            raise forbidden("the token's key may not write into this namespace", key.namespaces[0])
        if not claims.is_for(headers.get("origin", "")):
            raise forbidden("the token is for pages of another origin", claims.namespace)
        return _caller_of(key, claims.namespace)


def select_namespace(header: str | None, key: ApiKey) -> str:
    """Return the key's namespace that X-Namespace names, or its first without that header. Raises ApiError 403.

    The name is percent-encoded UTF-8, plain UTF-8, or plain Latin-1, which Python's HTTP client writes.
    """
    if header is None:
        return key.namespaces[0]
    as_utf8 = header.encode("latin-1").decode(errors="replace")
    for name in (as_utf8, header, unquote(as_utf8)):
        if name in key.namespaces:
            return name
    own = ", ".join(key.namespaces[:MAX_SHOWN_NAMESPACES])
    raise forbidden(
        f"the key is not bound to this namespace: X-Namespace may be left out, or name one of its own ({own}). "
        "`tally keys create` makes a key for another namespace",
        key.namespaces[0],
    )


def _caller_of(key: ApiKey, namespace: str) -> Caller:
    return Caller(key.key_id, namespace, key.scopes, key.rate_per_s)
