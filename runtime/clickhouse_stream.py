"""Results of any size, streamed from ClickHouse with bounded memory, each over a connection of its own."""

import asyncio
import re
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any, NamedTuple
from urllib.parse import quote

import httptools
from clickhouse_connect.driver.binding import format_bind_value
from clickhouse_connect.driver.exceptions import DatabaseError, OperationalError

from runtime.clickhouse_http import ERROR_CHARACTERS, HttpEndpoint, request_head
from runtime.faults.clickhouse import CLICKHOUSE_TIMEOUT

PIECE_BYTES = 256 * 1024
"""Largest piece of a result. While nobody takes pieces, at most three of them are held."""
TAIL_BYTES = 20 * 1024
"""End of a result that is held back until it is known not to be an error: ClickHouse truncates its text to 16 KiB."""

_OK = 200
_SETTINGS = {"cancel_http_readonly_queries_on_client_close": "1"}
_ESCAPED = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n"})
_CODE = re.compile(r"Code: (\d+)\.")
_UNMARKED_ERROR = re.compile(rb"(?:^|\n)(Code: \d+\. DB::Exception: [^\n]*\(version [^\n]*\))\s*$")


class StreamedResult(NamedTuple):
    """Result that is received while it is used. Its pieces raise DatabaseError and OperationalError."""

    format: str
    """ClickHouse's format: that of a FORMAT clause in the statement, else the default."""
    pieces: AsyncIterator[bytes]


@asynccontextmanager
async def streamed(
    endpoint: HttpEndpoint, sql: str, parameters: Mapping[str, Any], settings: Mapping[str, object], timeout_s: float
) -> AsyncIterator[StreamedResult]:
    """Run a SELECT with bound parameters, and yield its result in the format that the statement names.

    On entry ClickHouse has begun to answer. The time of the reader counts towards `timeout_s`. Raises DatabaseError
    with ClickHouse's code, before the first piece or between pieces, and OperationalError when the connection fails: a
    result without its end is always an error. Leaving the block early cancels the query.
    """
    deadline = asyncio.get_running_loop().time() + timeout_s
    path, headers = request_head(endpoint, {**_SETTINGS, **settings, "max_execution_time": timeout_s})
    bound = _bound({name: format_bind_value(value) for name, value in parameters.items()})
    body = sql.encode()
    request = f"POST {path}{bound} HTTP/1.1\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body
    async with _response(endpoint, request, lambda: asyncio.timeout_at(deadline)) as result:
        yield result


@asynccontextmanager
async def streamed_read_only(
    endpoint: HttpEndpoint, sql: str, parameters: Mapping[str, str], default_format: str
) -> AsyncIterator[StreamedResult]:
    """Run a statement that only reads, with the texts of its parameters, as `streamed` does.

    ClickHouse runs a GET request as read-only (readonly = 2) for users who may write. It names no setting, because the
    user may be one who is allowed none. There is no limit on the whole time: each piece arrives within the endpoint's
    `query_timeout_s`. The statement is part of a URL, which servers bound to 1 MiB.
    """
    path, headers = request_head(endpoint, {"default_format": default_format})
    bound = _bound({name: value.translate(_ESCAPED) for name, value in parameters.items()})
    request = f"GET {path}{bound}&query={quote(sql, safe='')} HTTP/1.1\r\n{headers}\r\n".encode()
    async with _response(endpoint, request, lambda: asyncio.timeout(endpoint.query_timeout_s)) as result:
        yield result


def _bound(parameters: Mapping[str, str]) -> str:
    return "".join(f"&param_{name}={quote(value, safe='')}" for name, value in parameters.items())


@asynccontextmanager
async def _response(
    endpoint: HttpEndpoint, request: bytes, limit: Callable[[], asyncio.Timeout]
) -> AsyncIterator[StreamedResult]:
    """Send a request over a connection of its own. Each read happens within a new `limit`."""
    reader, writer = await _connect(endpoint)
    try:
        writer.write(request)
        response = _Response(reader, limit)
        await response.receive_head()
        async with aclosing(response.pieces()) as pieces:
            yield StreamedResult(response.format, pieces)
    finally:
        writer.transport.abort()


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

    def __init__(self, reader: asyncio.StreamReader, limit: Callable[[], asyncio.Timeout]) -> None:
        self._reader = reader
        self._limit = limit
        self._parser = httptools.HttpResponseParser(self)
        self._code = 0
        self._tag = b""
        self._held = bytearray()
        self._has_head = False
        self._is_complete = False
        self.format = ""

    async def receive_head(self) -> None:
        """Receive the status and headers. Raises DatabaseError for an error of the statement."""
        while not self._has_head:
            await self._receive()
        status = self._parser.get_status_code()
        if status == _OK and not self._code:
            return
        while not self._is_complete and len(self._held) < ERROR_CHARACTERS:
            await self._receive()
        text = self._held[:ERROR_CHARACTERS].decode(errors="replace").strip()
        if code := self._code or _code_of(text):
            raise DatabaseError(text, code=code)
        raise OperationalError(f"HTTP status {status}: {text}")

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """Yield the result in pieces, without the error that ends it, and raise that."""
        broken: OperationalError | None = None
        while not self._is_complete and broken is None:
            if len(self._held) > TAIL_BYTES:
                piece = bytes(self._held[:-TAIL_BYTES])
                del self._held[:-TAIL_BYTES]
                yield piece
            try:
                await self._receive()
            except OperationalError as error:
                broken = error
        rows, text = self._split_error()
        if rows:
            yield rows
        if text:
            raise DatabaseError(text, code=_code_of(text))
        if broken is not None:
            raise broken

    async def _receive(self) -> None:
        try:
            async with self._limit():
                data = await self._reader.read(PIECE_BYTES)
        except TimeoutError as error:
            raise DatabaseError("the result exceeded its time limit", code=CLICKHOUSE_TIMEOUT) from error
        except OSError as error:
            raise OperationalError(f"the connection failed: {error}") from error
        if not data:
            raise OperationalError("the connection was closed before the end of the result")
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            raise OperationalError(f"the response is not HTTP: {error}") from error

    def _split_error(self) -> tuple[bytes, str]:
        """Split the end of the result into rows and the text of an error; it is empty for a complete result.

        ClickHouse 25.11 and later mark the text by a tag that no row can have; earlier ones do not mark it.
        """
        held = bytes(self._held)
        if self._tag:
            rows, mark, rest = held.partition(b"\r\n__exception__\r\n%b\r\n" % self._tag)
            marked = rest.rpartition(b" %b\r\n__exception__" % self._tag)[0]  # the text, and a line with its size
            text = marked.rpartition(b"\n")[0] or rest or mark
            return rows, text.decode(errors="replace").strip()
        found = _UNMARKED_ERROR.search(held)
        return (held[: found.start(1)], found.group(1).decode(errors="replace")) if found else (held, "")

    def on_header(self, name: bytes, value: bytes) -> None:
        match name.lower():
            case b"x-clickhouse-exception-code" if value.isdigit():
                self._code = int(value)
            case b"x-clickhouse-exception-tag":
                self._tag = value
            case b"x-clickhouse-format":
                self.format = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._has_head = True

    def on_body(self, body: bytes) -> None:
        self._held += body

    def on_message_complete(self) -> None:
        self._is_complete = True


def _code_of(text: str) -> int:
    found = _CODE.search(text)
    return int(found.group(1)) if found else 0
