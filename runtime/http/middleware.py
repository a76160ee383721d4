"""Middleware of every request: id, access log, metrics, bound on requests in flight, and error response."""

import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runtime.http import paths
from runtime.http.errors import ApiError, unavailable
from runtime.log import ACCESS
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
_GIVEN_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_CLIENT_LEFT = 499
_MAX_PATH_CHARACTERS = 200

log = logging.getLogger("tally.api")
access_log = logging.getLogger(ACCESS)


class RequestMiddleware:
    """Outermost middleware. It serves at most `max_in_flight` requests at a time, and responds 503 to further ones."""

    def __init__(self, app: ASGIApp, *, max_in_flight: int, access_log: bool, traces: Traces) -> None:
        self._app = app
        self._max_in_flight = max_in_flight
        self._logs = access_log
        self._traces = traces
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = _RequestRecord(scope, send)
        self._in_flight += 1
        REQUESTS_IN_FLIGHT.set(self._in_flight)
        try:
            with self._traces.request(scope["method"], _header_of(scope, TRACE_HEADER.encode())) as span:
                await self._serve(scope, receive, record)
                if span is not None:
                    span.update_name(f"{scope['method']} {_route_of(scope)}")
                    span.set_attribute("http.response.status_code", record.status)
                    span.set_attribute("tally.request_id", record.id)
        finally:
            self._in_flight -= 1
            REQUESTS_IN_FLIGHT.set(self._in_flight)
            for release in scope.get(ON_COMPLETE, ()):
                release()
            record.note(access=self._logs)

    async def _serve(self, scope: Scope, receive: Receive, record: "_RequestRecord") -> None:
        try:
            # Probes are always served: an orchestrator kills a process without them, and its accepted events with it.
            is_free = scope["path"] in paths.OPERATIONS
            if self._in_flight > self._max_in_flight and not is_free:
                error = unavailable(f"{self._max_in_flight} requests are in flight (TALLY_HTTP_IN_FLIGHT)")
                await error.response()(scope, receive, record.send)
            elif SURPLUS in scope and not is_free:
                error = unavailable(f"{scope[SURPLUS]} connections are open (TALLY_HTTP_CONNECTIONS)")
                error.headers["Connection"] = "close"
                await error.response()(scope, receive, record.send)
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
            await ApiError(500, message).response()(scope, receive, record.send)


class _RequestRecord:
    def __init__(self, scope: Scope, send: Callable[[Message], Awaitable[None]]) -> None:
        self._scope = scope
        self._send = send
        self._at = time.perf_counter()
        self._bytes = 0
        self.id = _given_id(scope) or uuid.uuid4().hex
        self.status = 0
        self.begun = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.begun, self.status = True, message["status"]
            further = {REQUEST_ID: self.id} | self._scope.get(EXTRA_HEADERS, {})
            given = message.get("headers", ())
            headers = ((name.lower().encode(), value.encode()) for name, value in further.items())
            message["headers"] = [*given, *(each for each in headers if each[0] not in dict(given))]
        else:
            self._bytes += len(message.get("body", b""))
        await self._send(message)

    def note(self, *, access: bool) -> None:
        scope, seconds = self._scope, time.perf_counter() - self._at
        route = _route_of(scope)
        REQUESTS.labels(scope["method"], route, self.status).inc()
        REQUEST_SECONDS.labels(scope["method"], route).observe(seconds)
        if access:
            caller: Any = scope.get(CALLER)
            # Without the query string: it may hold a token.
            fields = {
                "request_id": self.id,
                "method": scope["method"],
                "path": scope["path"][:_MAX_PATH_CHARACTERS].encode("unicode_escape").decode(),
                "status": self.status,
                "ms": round(seconds * 1000, 1),
                "bytes": self._bytes,
                "key_id": caller.key_id if caller else "-",
                "namespace": caller.namespace if caller else "-",
            }
            access_log.info(_ACCESS, fields, extra=fields)


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


def _given_id(scope: Scope) -> str | None:
    given = _header_of(scope, REQUEST_ID.lower().encode())
    return given.decode() if given and _GIVEN_ID.fullmatch(given) else None


def _header_of(scope: Scope, wanted: bytes) -> bytes | None:
    return next((value for name, value in scope["headers"] if name == wanted), None)
