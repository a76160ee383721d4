"""HTTP connections with bounds on heads, headers, framing, pipelined requests, and the time for each of them.

uvicorn's own protocol on httptools has none of these bounds. A refusal is a response in the published format. It is
sent after the responses to earlier requests; then the connection closes.
"""

import asyncio
import logging
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from runtime.http.connection_limits import SURPLUS_CONNECTIONS, ConnectionLimits
from runtime.http.errors import ApiError, unavailable
from runtime.http.exchange import exchange_of, last_response
from runtime.http.headers import BODY_RECEIVED
from runtime.http.middleware import SURPLUS
from runtime.http.turns import StartQueue
from runtime.metrics import CONNECTIONS_REFUSED

LINGER_S = 2.0
"""Time for a refused client to read its response: closing at once would discard unread bytes."""
SURPLUS_WAIT_S = 1.0
"""Time for a head on a surplus connection; none is kept alive."""
PROGRESS_BYTES = 64 * 1024
BODY_PER_FRAMING_BYTE = 4
HEADER_OVERHEAD_BYTES = len(": \r\n")
_VERSIONS = ("1.0", "1.1")

log = logging.getLogger("tally.api")


class _ParsingStopped(Exception):
    """End of parsing, raised in a parser callback; the parser converts it to an error of its own."""


class BoundedConnection(HttpToolsProtocol):
    """Connection with bounds. The server calls `check` a few times a second, so no timers are needed."""

    def __init__(
        self,
        limits: ConnectionLimits,
        starts: StartQueue,
        is_stopping: Callable[[], bool],
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limits = limits
        self._start_queue = starts
        self._is_last_response = lambda: is_stopping() and not self.pipeline
        self._is_surplus = False
        self._deadline = math.inf
        """Time at which the awaited event is overdue: a head, the rest of a body, the next request, an end."""
        self._in_head = True
        """Whether the next byte belongs to a head; otherwise it belongs to the body of the newest request."""
        self._head_bytes = 0
        """Bytes of an incomplete head."""
        self._chunk_bytes = 0
        self._has_ended_message = False
        self._body_bytes = 0
        self._framing_bytes = 0
        """Bytes around the body: sizes and extensions of chunks, trailers."""
        self._refusal: ApiError | None = None
        """Last response, which waits for the earlier ones."""
        self._is_refused = False
        self._body_left = 0
        """Remaining body bytes of a request for an upgrade, which the parser does not handle."""
        self._unsent_bytes = 0
        self._unsent_until = math.inf

    @property
    def _is_idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept the connection, or refuse it when too many are open."""
        super().connection_made(transport)
        count = len(self.connections)
        if count > self._limits.connections:
            self._is_surplus = True
            wait_s = min(SURPLUS_WAIT_S, self._limits.head_timeout_s)
            self._limits = self._limits._replace(head_timeout_s=wait_s, keep_alive_s=0)
        self._deadline = self.loop.time() + self._limits.head_timeout_s
        if count > self._limits.connections + SURPLUS_CONNECTIONS:
            self._respond(unavailable(f"{self._limits.connections} connections are open (TALLY_HTTP_CONNECTIONS)"))
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        """Parse received bytes."""
        if self._is_refused:
            return
        begun_in_head = self._in_head
        if begun_in_head and not self._head_bytes and self._is_idle:
            self._deadline = self.loop.time() + self._limits.head_timeout_s
        self._chunk_bytes, self._has_ended_message = len(data), False
        try:
            self._feed(data)
        except (httptools.HttpParserError, _ParsingStopped):
            self._refuse(self._refusal or ApiError(400, "the request is not well-formed HTTP/1.1"))
        else:
            self._check_bounds(begun_in_head)

    def _feed(self, data: bytes) -> None:
        rest: bytes | memoryview = data
        while rest:
            if self._body_left:
                piece, rest = rest[: self._body_left], rest[self._body_left :]
                self._body_left -= len(piece)
                self.on_body(bytes(piece))
                if not self._body_left:
                    self.on_message_complete()
                continue
            try:
                self.parser.feed_data(rest)
                return
            except httptools.HttpParserUpgrade as upgrade:
                rest = memoryview(rest)[upgrade.args[0] :]
                self._ignore_upgrade()

    def _ignore_upgrade(self) -> None:
        """Serve a request for a protocol upgrade as an ordinary one.

        The parser assumes that it has no body, and would parse the body as the next request.
        """
        headers = dict(self.scope["headers"])
        if b"transfer-encoding" in headers:
            self._stop_parsing(ApiError(400, "a request for a protocol upgrade cannot have a chunked body"))
        self._body_left = int(headers.get(b"content-length", b"0"))
        if self._body_left:
            self.cycle.more_body, self._in_head, self._has_ended_message = True, False, False
            self.scope.pop(BODY_RECEIVED, None)  # type: ignore[misc]

    def _check_bounds(self, begun_in_head: bool) -> None:
        """Refuse a head that never ends, and a body that is mostly framing."""
        if self._in_head:
            continues = begun_in_head and not self._has_ended_message
            self._head_bytes = self._head_bytes + self._chunk_bytes if continues else 0
            if self._head_bytes > self._limits.head_bytes:
                self._refuse(self._limits.head_too_large(len(self.url)))
        elif begun_in_head:
            self._framing_bytes = 0
        else:
            self._framing_bytes += self._chunk_bytes
            if self._framing_bytes > self._limits.head_bytes + self._body_bytes // BODY_PER_FRAMING_BYTE:
                self._refuse(ApiError(400, "the body's chunks are too small, or have too long extensions or trailers"))
            elif self._is_idle and self._body_bytes > self._limits.rest_bytes:
                self._half_close()

    def on_headers_complete(self) -> None:
        """Begin to serve a request, unless its head exceeds a bound."""
        if self._head_bytes + self._chunk_bytes > self._limits.head_bytes:
            size = len(self.url) + sum(len(name) + len(value) + HEADER_OVERHEAD_BYTES for name, value in self.headers)
            if size > self._limits.head_bytes:
                self._stop_parsing(self._limits.head_too_large(len(self.url)))
        if self.parser.get_http_version() not in _VERSIONS:
            self._stop_parsing(ApiError(400, "the request is neither HTTP/1.0 nor HTTP/1.1"))
        if len(self.headers) > self._limits.headers:
            limit = f"at most {self._limits.headers} are allowed (TALLY_HTTP_HEADERS)"
            self._stop_parsing(ApiError(431, f"{len(self.headers)} headers, {limit}"))
        if len(self.pipeline) >= self._limits.pipelined:
            self._stop_parsing(unavailable(f"{self._limits.pipelined} pipelined requests (TALLY_HTTP_PIPELINED)"))
        if self._is_surplus:
            self.scope[SURPLUS] = self._limits.connections  # type: ignore[literal-required]
        earlier, self.cycle = self.cycle, exchange_of(self, self._is_last_response)
        if earlier is None or earlier.response_complete:
            self._start_asgi_task(self.cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))
        self.headers = []  # collects trailers, which are ignored
        self._in_head, self._head_bytes, self._body_bytes, self._framing_bytes = False, 0, 0, 0
        self._deadline = math.inf

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._start_queue.start(self.loop, partial(super()._start_asgi_task, cycle, app))

    def on_body(self, body: bytes) -> None:
        """Pass on a piece of a body."""
        self._body_bytes += len(body)
        self._framing_bytes -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Expect the next request."""
        super().on_message_complete()
        self.scope[BODY_RECEIVED] = True  # type: ignore[literal-required]
        self._in_head, self._head_bytes, self._has_ended_message = True, 0, True
        if self._is_idle:
            self._deadline = self.loop.time() + self._limits.keep_alive_s

    def on_response_complete(self) -> None:
        """Start the next pipelined request, or wait for one."""
        self.server_state.total_requests += 1
        now = self.loop.time()
        if self.transport.is_closing():
            self._deadline = now + self._limits.write_timeout_s
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        elif self._refusal is not None:
            self._respond(self._refusal)
        elif not self._in_head:
            self._deadline = now + self._limits.body_timeout_s
        else:
            self._deadline = now + (self._limits.head_timeout_s if self._head_bytes else self._limits.keep_alive_s)

    def resume_writing(self) -> None:
        """Resume writing, because the client reads again."""
        super().resume_writing()
        self._unsent_bytes, self._unsent_until = 0, math.inf

    def shutdown(self) -> None:
        """Close the connection once accepted requests are answered."""
        if self._is_refused and self._refusal is None:
            self.transport.abort()
        else:
            super().shutdown()

    def check(self, now: float) -> None:
        """Close a connection that exceeds a time limit."""
        if self.flow.write_paused:
            unsent = self.transport.get_write_buffer_size()
            if not self._unsent_bytes or unsent <= self._unsent_bytes - PROGRESS_BYTES:
                self._unsent_bytes, self._unsent_until = unsent, now + self._limits.write_timeout_s
            elif now >= self._unsent_until:
                self._abort("the client does not read its response (TALLY_HTTP_WRITE_TIMEOUT_MS)", "unread")
        elif now >= self._deadline:
            self._expire(now)

    def _expire(self, now: float) -> None:
        if self.transport.is_closing() or self._is_refused:
            self.transport.abort()
        elif self._in_head and self._head_bytes:
            wait_ms = round(self._limits.head_timeout_s * 1000)
            self._refuse(ApiError(408, f"the head did not arrive within {wait_ms} ms (TALLY_HTTP_HEAD_TIMEOUT_MS)"))
        else:
            self.transport.close()
            self._deadline = now + self._limits.write_timeout_s

    def _stop_parsing(self, refusal: ApiError) -> None:
        """End parsing from a callback; `data_received` sends the refusal."""
        self._refusal = refusal
        raise _ParsingStopped

    def _refuse(self, error: ApiError) -> None:
        """Stop reading, send an error after all earlier responses, and close."""
        self._is_refused, self._refusal = True, error
        cycle = self.cycle
        if self._is_idle and not self._in_head:
            self._half_close()  # the request is answered already
        elif self._is_idle:
            self._respond(error)
        elif not cycle.more_body:
            pass  # the refusal is of a later request, and waits for the earlier ones
        elif self.pipeline and self.pipeline[0][0] is cycle:
            self.pipeline.popleft()
        else:
            cycle.disconnected = True
            cycle.message_event.set()
            if cycle.response_started:
                self._abort("the body is malformed", "malformed")
            else:
                self._respond(error)

    def _respond(self, error: ApiError) -> None:
        """Write the last response of a connection, and close it for writing."""
        CONNECTIONS_REFUSED.labels(str(error.status)).inc()
        log.info("refused a request before routing: %d %s", error.status, error.message)
        self.transport.write(last_response(error, self.server_state.default_headers))
        self._half_close()

    def _half_close(self) -> None:
        """Close for writing, and discard input until the client closes, or for LINGER_S."""
        self._is_refused, self._refusal = True, None
        self.transport.write_eof()
        self._deadline = self.loop.time() + LINGER_S

    def _abort(self, why: str, label: str) -> None:
        CONNECTIONS_REFUSED.labels(label).inc()
        log.info("aborted a connection: %s", why)
        self.transport.abort()

    def _should_upgrade(self) -> bool:
        return False
