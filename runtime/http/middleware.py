"""Middleware of every request: id, access log, metrics, bound on requests in flight, and error response."""

import asyncio
import logging
import os
import re
import time
from collections.abc import Awaitable, Iterator
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runtime.http import paths
from runtime.http.errors import ApiError, unavailable
from runtime.http.headers import headers_of
from runtime.log import ACCESS, write_together
from runtime.metrics import REQUEST_SECONDS, REQUESTS, REQUESTS_IN_FLIGHT
from runtime.traces import Traces
from schemas.wire import TRACE_HEADER

REQUEST_ID = "X-Request-Id"
CALLER = "tally.caller"
"""Scope key of the authenticated caller."""
EXTRA_HEADERS = "tally.headers"
"""Scope key of headers for the response, whatever its status."""
ON_COMPLETE = "tally.on_complete"
"""Scope key of a list of functions that are called once the response is sent, or has failed."""
SURPLUS = "tally.surplus"
"""Scope key of the connection limit, on a connection beyond it."""

_ACCESS = "%(request_id)s %(method)s %(path)s %(status)d %(ms)s ms %(bytes)d bytes %(key_id)s %(namespace)r"
_REQUEST_ID = REQUEST_ID.lower()
_RAW_REQUEST_ID = _REQUEST_ID.encode()
_GIVEN_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_ID_CHARACTERS = 32
_IDS_TOGETHER = 128
_CLIENT_LEFT = 499
_MAX_PATH_CHARACTERS = 200

log = logging.getLogger("tally.api")
access_log = logging.getLogger(ACCESS)


class RequestMiddleware:
    """Outermost middleware. It serves at most `max_in_flight` requests at a time, and responds 503 to further ones."""

    def __init__(self, app: ASGIApp, *, max_in_flight: int, access_log: bool, traces: Traces) -> None:
        self._app = app
        self._max_in_flight = max_in_flight
        self._access_log = _AccessLog() if access_log else None
        self._traces = traces
        self._in_flight = 0
        self._new_ids = _random_ids()
        self._metrics = _RequestMetrics()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = headers_of(scope).get(_REQUEST_ID)
        record = _RequestRecord(scope, send, given if given and _GIVEN_ID.fullmatch(given) else next(self._new_ids))
        self._in_flight += 1
        REQUESTS_IN_FLIGHT.set(self._in_flight)
        try:
            serve = self._trace if self._traces.is_enabled else self._serve
            await serve(scope, receive, record)
        finally:
            self._in_flight -= 1
            REQUESTS_IN_FLIGHT.set(self._in_flight)
            for release in scope.get(ON_COMPLETE, ()):
                release()
            seconds = time.perf_counter() - record.at
            self._metrics.note(scope["method"], _route_of(scope), record.status, seconds)
            if self._access_log is not None:
                self._access_log.add(record.log_fields(seconds))

    async def _trace(self, scope: Scope, receive: Receive, record: "_RequestRecord") -> None:
        parent = headers_of(scope).get(TRACE_HEADER)
        with self._traces.request(scope["method"], parent.encode("latin-1") if parent else None) as span:
            await self._serve(scope, receive, record)
            if span is not None:
                span.update_name(f"{scope['method']} {_route_of(scope)}")
                span.set_attribute("http.response.status_code", record.status)
                span.set_attribute("tally.request_id", record.id)

    async def _serve(self, scope: Scope, receive: Receive, record: "_RequestRecord") -> None:
        try:
            if refusal := self._refusal(scope):
                await refusal.answer().send(record.send)
            else:
                await self._app(scope, receive, record.send)
        except ClientDisconnect:
            record.status = _CLIENT_LEFT
        except Exception:
            # The client gets the request id; the stack trace stays in the log.
            log.exception("request %s failed", record.id)
            if record.begun:
                raise
            message = f"unexpected error; report request id {record.id} to the operator of this service"
            await ApiError(500, message).answer().send(record.send)

    def _refusal(self, scope: Scope) -> ApiError | None:
        """Return the error for a request above a bound."""
        is_above = self._in_flight > self._max_in_flight
        # Probes are always served: an orchestrator kills a process without them, and its accepted events with it.
        if not (is_above or SURPLUS in scope) or scope["path"] in paths.OPERATIONS:
            return None
        if is_above:
            return unavailable(f"{self._max_in_flight} requests are in flight (TALLY_HTTP_IN_FLIGHT)")
        error = unavailable(f"{scope[SURPLUS]} connections are open (TALLY_HTTP_CONNECTIONS)")
        error.headers["Connection"] = "close"
        return error


class _RequestMetrics:
    """Counters of requests. Looking labels up in the library takes longer than counting."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, int], tuple[Any, Any]] = {}

    def note(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request, and observe its duration."""
        labels = method, route, status
        if labels not in self._known:
            self._known[labels] = REQUESTS.labels(*labels), REQUEST_SECONDS.labels(method, route)
        count, duration = self._known[labels]
        count.inc()
        duration.observe(seconds)


class _AccessLog:
    """Access log. Requests that end in one iteration of the event loop are logged together, in less time."""

    def __init__(self) -> None:
        self._waiting: list[dict[str, Any]] = []

    def add(self, fields: dict[str, Any]) -> None:
        """Log a line in the next iteration."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._write)
        self._waiting.append(fields)

    def _write(self) -> None:
        waiting, self._waiting = self._waiting, []
        if not access_log.isEnabledFor(logging.INFO):
            return
        start = access_log.makeRecord(ACCESS, logging.INFO, __file__, 0, "", (), None)
        if not write_together(start, [_ACCESS % fields for fields in waiting]):
            for fields in waiting:
                access_log.info(_ACCESS, fields, extra=fields)


class _RequestRecord:
    """Record of one request and its response, for the access log and metrics."""

    __slots__ = ("_bytes", "_scope", "_send", "at", "begun", "id", "status")

    def __init__(self, scope: Scope, send: Send, request_id: str) -> None:
        self._scope = scope
        self._send = send
        self._bytes = 0
        self.at = time.perf_counter()
        self.id = request_id
        self.status = 0
        self.begun = False

    def send(self, message: Message) -> Awaitable[None]:
        """Send a part of the response, with the request's id and further headers."""
        if message["type"] == "http.response.start":
            self.begun, self.status = True, message["status"]
            headers = [*message.get("headers", ()), (_RAW_REQUEST_ID, self.id.encode())]
            if further := self._scope.get(EXTRA_HEADERS):
                given = {name for name, _ in headers}
                named = ((name.lower().encode(), value.encode()) for name, value in further.items())
                headers += [each for each in named if each[0] not in given]
            message["headers"] = headers
        else:
            self._bytes += len(message.get("body", b""))
        return self._send(message)

    def log_fields(self, seconds: float) -> dict[str, Any]:
        """Return the fields of the access log's line."""
        scope = self._scope
        caller: Any = scope.get(CALLER)
        # Without the query string: it may hold a token.
        return {
            "request_id": self.id,
            "method": scope["method"],
            "path": scope["path"][:_MAX_PATH_CHARACTERS].encode("unicode_escape").decode(),
            "status": self.status,
            "ms": round(seconds * 1000, 1),
            "bytes": self._bytes,
            "key_id": caller.key_id if caller else "-",
            "namespace": caller.namespace if caller else "-",
        }


class HeadAsGet:
    """Middleware that routes HEAD to the endpoints of GET. The server omits the body, because it sees HEAD."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            scope["method"] = "HEAD"
            await send(message)

        scope["method"] = "GET"
        try:
            await self._app(scope, receive, send_head)
        finally:
            scope["method"] = "HEAD"


def _route_of(scope: Scope) -> str:
    """Return the route's template, not the raw path: that would have unbounded label cardinality."""
    return str(getattr(scope.get("route"), "path", "none"))


def _random_ids() -> Iterator[str]:
    """Yield random ids. A call of the kernel for each would take as long as the rest of the middleware's start."""
    while True:
        text = os.urandom(_IDS_TOGETHER * _ID_CHARACTERS // 2).hex()
        for start in range(0, len(text), _ID_CHARACTERS):
            yield text[start : start + _ID_CHARACTERS]
