"""Around every request: an id, an access log, a bound on how many are in flight, and no stack trace for anybody."""

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
"""Where in the scope the one who asks stands, once it is known."""
EXTRA_HEADERS = "tally.headers"
"""Where in the scope headers stand that the answer is to have, whatever it is."""
ON_COMPLETE = "tally.at_end"
"""Where in the scope a list of functions stands that are called once the answer is sent, or cannot be."""
SURPLUS = "tally.surplus"
"""Where in the scope the bound on connections stands, on a connection beyond it."""

_ACCESS = "%(request_id)s %(method)s %(path)s %(status)d %(ms)s ms %(bytes)d bytes %(key_id)s %(namespace)r"
_GIVEN_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_CLIENT_LEFT = 499

log = logging.getLogger("tally.api")
access_log = logging.getLogger(ACCESS)


class RequestMiddleware:
    """The outermost part of the application. `max_in_flight` requests are worked on; further ones are answered 503."""

    def __init__(self, app: ASGIApp, *, max_in_flight: int, access_log: bool, traces: Traces) -> None:
        self._app = app
        self._max_in_flight = max_in_flight
        self._logs = access_log
        self._traces = traces
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection's request."""
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
            # Who is taken for dead under load is killed, and with it what it has taken in.
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
            # The last resort: the client gets an id, the trace stays in the log.
            log.exception("request %s failed", record.id)
            if record.begun:
                raise
            message = f"an unexpected error; quote request {record.id} to whoever runs this service"
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
            # Without the query: a token may stand in it.
            told = {
                "request_id": self.id,
                "method": scope["method"],
                "path": scope["path"][:200].encode("unicode_escape").decode(),
                "status": self.status,
                "ms": round(seconds * 1000, 1),
                "bytes": self._bytes,
                "key_id": caller.key_id if caller else "-",
                "namespace": caller.namespace if caller else "-",
            }
            access_log.info(_ACCESS, told, extra=told)


def _route_of(scope: Scope) -> str:
    """Never the path as it was sent: anybody can make up as many of those as he likes."""
    return str(getattr(scope.get("route"), "path", "none"))


def _given_id(scope: Scope) -> str | None:
    given = _header_of(scope, REQUEST_ID.lower().encode())
    return given.decode() if given and _GIVEN_ID.fullmatch(given) else None


def _header_of(scope: Scope, wanted: bytes) -> bytes | None:
    return next((value for name, value in scope["headers"] if name == wanted), None)
