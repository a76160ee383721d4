"""Results of any size, streamed from ClickHouse with bounded memory, each over a connection of its own."""

import asyncio
import re
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any
from urllib.parse import quote

import httptools
from clickhouse_connect.driver.binding import format_bind_value
from clickhouse_connect.driver.exceptions import DatabaseError, OperationalError

from runtime.clickhouse_http import ERROR_CHARACTERS, HttpEndpoint, request_head
from runtime.faults.clickhouse import CLICKHOUSE_TIMEOUT

PIECE_BYTES = 256 * 1024
"""Largest piece of a result. While nobody takes pieces, at most three of them are held."""
TAIL_BYTES = 20 * 1024
"""End of a result that is searched for an error: ClickHouse truncates its text to 16 KiB."""

_OK = 200
_SETTINGS = {"cancel_http_readonly_queries_on_client_close": "1"}
_CODE = re.compile(r"Code: (\d+)\.")


@asynccontextmanager
async def streamed(
    endpoint: HttpEndpoint, sql: str, parameters: Mapping[str, Any], settings: Mapping[str, object], timeout_s: float
) -> AsyncIterator[AsyncIterator[bytes]]:
    """Run a SELECT with bound parameters, and yield the pieces of its result in the format that the statement names.

    On entry ClickHouse has begun to answer. The time of the reader counts towards `timeout_s`. Raises DatabaseError
    with ClickHouse's code, before the first piece or between pieces, and OperationalError when the connection fails: a
    result without its end is always an error. Leaving the block early cancels the query.
    """
    deadline = asyncio.get_running_loop().time() + timeout_s
    request = _request(endpoint, sql, parameters, {**_SETTINGS, **settings, "max_execution_time": timeout_s})
    reader, writer = await _connect(endpoint)
    try:
        writer.write(request)
        response = _Response(reader, deadline)
        await response.receive_head()
        async with aclosing(response.pieces()) as pieces:
            yield pieces
    finally:
        writer.transport.abort()


def _request(endpoint: HttpEndpoint, sql: str, parameters: Mapping[str, Any], settings: Mapping[str, object]) -> bytes:
    path, headers = request_head(endpoint, settings)
    bound = "".join(f"&param_{name}={quote(format_bind_value(value), safe='')}" for name, value in parameters.items())
    body = sql.encode()
    return f"POST {path}{bound} HTTP/1.1\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def _connect(endpoint: HttpEndpoint) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    try:
        async with asyncio.timeout(endpoint.connect_timeout_s):
            reader, writer = await asyncio.open_connection(
                endpoint.host, endpoint.port, ssl=endpoint.trust, limit=PIECE_BYTES
            )
    except TimeoutError as error:
        raise OperationalError("no connection in time (TALLY_CONNECT_TIMEOUT_MS)") from error
    except OSError as error:
        raise OperationalError(f"the connection failed: {error}") from error
    # A query may take long before its first byte, so only the kernel notices that the server is gone.
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return reader, writer


class _Response:
    """Response of one query, parsed as it arrives."""

    def __init__(self, reader: asyncio.StreamReader, deadline: float) -> None:
        self._reader = reader
        self._deadline = deadline
        self._parser = httptools.HttpResponseParser(self)
        self._code = 0
        self._tag = b""
        self._parts: list[bytes] = []
        self._tail = b""
        self._has_head = False
        self._is_complete = False

    async def receive_head(self) -> None:
        """Receive the status and headers. Raises DatabaseError for an error of the statement."""
        while not self._has_head:
            await self._receive()
        status = self._parser.get_status_code()
        if status == _OK and not self._code:
            return
        while not self._is_complete and len(self._tail) < ERROR_CHARACTERS:
            await self._receive()
        raise DatabaseError(self._tail[:ERROR_CHARACTERS].decode(errors="replace").strip(), code=self._code)

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """Yield the result in pieces."""
        while True:
            if self._parts:
                piece, self._parts = b"".join(self._parts), []
                yield piece
            if self._is_complete:
                self._raise_marked_error()
                return
            await self._receive()

    async def _receive(self) -> None:
        try:
            async with asyncio.timeout_at(self._deadline):
                data = await self._reader.read(PIECE_BYTES)
        except TimeoutError as error:
            raise DatabaseError("the result exceeded its time limit", code=CLICKHOUSE_TIMEOUT) from error
        except OSError as error:
            raise OperationalError(f"the connection failed: {error}") from error
        if not data:
            self._raise_marked_error()
            raise OperationalError("the connection was closed before the end of the result")
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            raise OperationalError(f"the response is not HTTP: {error}") from error

    def _raise_marked_error(self) -> None:
        """Raise the error at the end of the result, if there is one (ClickHouse 25.11 and later)."""
        begin, end = b"\r\n__exception__\r\n%b\r\n" % self._tag, b" %b\r\n__exception__\r\n" % self._tag
        if self._tag and self._tail.endswith(end) and begin in self._tail:
            marked = self._tail[self._tail.rindex(begin) + len(begin) : -len(end)]  # the text, and a line with its size
            text = marked.rpartition(b"\n")[0].decode(errors="replace").strip()
            code = _CODE.search(text)
            raise DatabaseError(text, code=int(code.group(1)) if code else 0)

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"x-clickhouse-exception-code" and value.isdigit():
            self._code = int(value)
        elif name.lower() == b"x-clickhouse-exception-tag":
            self._tag = value

    def on_headers_complete(self) -> None:
        self._has_head = True

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)
        self._tail = (self._tail + body)[-TAIL_BYTES:]

    def on_message_complete(self) -> None:
        self._is_complete = True
