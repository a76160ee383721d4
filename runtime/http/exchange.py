"""Request and its response on a connection, with the response's head and first bytes in one write to the socket."""

import asyncio
import uuid
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from runtime.http.errors import ApiError
from runtime.http.middleware import REQUEST_ID

JOINED_BYTES = 64 * 1024
"""Largest first part of a body that is copied into the head's write; a second write costs less than a larger copy."""
_WITHOUT_BODY = (204, 304)


class Exchange(RequestResponseCycle):
    """Request and response. uvicorn's own class writes the head by itself, which costs a call of the kernel."""

    _head = b""
    """Head that waits for the first part of its body."""
    is_last: Callable[[], bool]

    async def send(self, message: Any) -> None:
        """Take a part of the response. Raises RuntimeError for one that HTTP does not allow here."""
        if message["type"] == "http.response.start" and not self.response_started:
            self.keep_alive = self.keep_alive and not self.is_last()
            size = next((value for name, value in message["headers"] if name == b"content-length"), None)
            if size is not None and message["status"] not in _WITHOUT_BODY and self.scope["method"] != "HEAD":
                self._begin(message["status"], message["headers"], int(size))
                return
        elif self._head and message["type"] == "http.response.body":
            await self._send_first(message.get("body", b""), more=message.get("more_body", False))
            return
        await super().send(message)

    def _begin(self, status: int, headers: list[tuple[bytes, bytes]], size: int) -> None:
        if any(name == b"connection" and b"close" in value.lower() for name, value in headers):
            self.keep_alive = False
        elif not self.keep_alive:
            headers = [*headers, (b"connection", b"close")]
        lines = [b"%b: %b\r\n" % each for each in (*self.default_headers, *headers)]
        head = b"".join(lines)
        if not head.count(b"\r") == head.count(b"\n") == len(lines) or b"\0" in head:
            raise RuntimeError("a response header holds a line break")
        self._head = b"%b%b\r\n" % (STATUS_LINE[status], head)
        self.response_started, self.waiting_for_100_continue = True, False
        self.chunked_encoding, self.expected_content_length = False, size

    async def _send_first(self, body: bytes, *, more: bool) -> None:
        """Write the head with the first part of the body."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        head, self._head = self._head, b""
        if self.disconnected:
            return
        if len(body) > self.expected_content_length:
            raise RuntimeError("the body is longer than its Content-Length")
        if more or len(body) < self.expected_content_length or len(body) > JOINED_BYTES:
            self.transport.write(head)
            await super().send({"type": "http.response.body", "body": body, "more_body": more})
            return
        self.transport.write(head + body)
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()


def exchange_of(connection: HttpToolsProtocol, is_last: Callable[[], bool]) -> Exchange:
    """Return the exchange of the request whose head a connection has just received.

    `is_last` says whether a response that begins now announces the end of the connection.
    """
    scope, version = connection.scope, connection.parser.get_http_version()
    parsed = httptools.parse_url(connection.url)
    path = parsed.path.decode("ascii")
    scope["method"] = connection.parser.get_method().decode("ascii")
    scope["http_version"] = version
    scope["path"] = unquote(path) if "%" in path else path
    scope["raw_path"] = parsed.path
    scope["query_string"] = parsed.query or b""
    exchange = Exchange(
        scope=scope,
        transport=connection.transport,
        flow=connection.flow,
        logger=connection.logger,
        access_logger=connection.access_logger,
        access_log=False,
        default_headers=connection.server_state.default_headers,
        message_event=asyncio.Event(),
        expect_100_continue=connection.expect_100_continue,
        keep_alive=version != "1.0" and connection.parser.should_keep_alive(),
        on_response=connection.on_response_complete,
    )
    exchange.is_last = is_last
    return exchange


def last_response(error: ApiError, default_headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Return the bytes of the error that ends a connection before a request is served."""
    answer = error.answer()
    own = ((REQUEST_ID.lower().encode(), uuid.uuid4().hex.encode()), (b"connection", b"close"))
    head = b"".join(b"%b: %b\r\n" % each for each in (*default_headers, *answer.headers, *own))
    return b"%b%b\r\n%b" % (STATUS_LINE[error.status], head, answer.body)
