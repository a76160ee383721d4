"""Short queries over kept HTTP connections of the event loop: no threads, and results as bytes.

clickhouse-connect runs a query in a thread and makes Python objects of its columns, which costs a lookup more CPU than
its HTTP request.
"""

import asyncio
import base64
import ssl
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from urllib.parse import quote

import httptools
from clickhouse_connect.driver.exceptions import DatabaseError, OperationalError

CONNECTIONS = 8
"""Maximum connections of one pool. Further queries wait for one."""
RESPONSE_BYTES = 64 * 1024 * 1024
"""Largest response: twice the largest records of `readers.lookup.IDS_PER_QUERY` events."""
ERROR_CHARACTERS = 2_000

_OK = 200
_SETTINGS = {
    "default_format": "JSONCompactEachRow",
    "date_time_output_format": "iso",
    "output_format_json_quote_64bit_integers": "0",
    "output_format_json_validate_utf8": "1",
    # An error after the first rows has a status of its own.
    "wait_end_of_query": "1",
    "cancel_http_readonly_queries_on_client_close": "1",
    # The few rows of a lookup are read faster than threads are started.
    "max_threads": "1",
}

TextParameters = Mapping[str, str | Sequence[str]]


class HttpEndpoint(NamedTuple):
    """HTTP interface of ClickHouse, a user and a database."""

    host: str
    port: int
    user: str
    password: str
    database: str
    connect_timeout_s: float
    query_timeout_s: float
    settings: Mapping[str, object]
    """ClickHouse settings of every query."""
    trust: ssl.SSLContext | None = None
    """Certificates to trust; None: without TLS."""


def request_head(endpoint: HttpEndpoint, settings: Mapping[str, object]) -> tuple[str, str]:
    """Return the path of a query with these ClickHouse settings, and its headers without that of its size."""
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    credentials = base64.b64encode(f"{endpoint.user}:{endpoint.password}".encode()).decode()
    named = {"database": endpoint.database, **settings, **endpoint.settings}
    path = "/?" + "&".join(f"{name}={quote(str(value), safe='')}" for name, value in named.items())
    return path, f"Host: {host}:{endpoint.port}\r\nAuthorization: Basic {credentials}\r\n"


class QueryPool:
    """Kept connections of one event loop, at most CONNECTIONS."""

    def __init__(self, endpoint: HttpEndpoint) -> None:
        self._endpoint = endpoint
        self._slots = asyncio.Semaphore(CONNECTIONS)
        self._idle: list[_Connection] = []
        self._path, self._headers = request_head(endpoint, _SETTINGS)

    async def fetch(self, sql: str, parameters: TextParameters) -> bytes:
        """Run a SELECT with bound texts and lists of texts, and return its rows in JSONCompactEachRow.

        A query whose kept connection was closed before its response is sent again, because it only reads. Raises
        DatabaseError with ClickHouse's code, and OperationalError for the network, a timeout and a response of more
        than RESPONSE_BYTES.
        """
        request = self._request(sql, parameters)
        try:
            async with self._slots, asyncio.timeout(self._endpoint.query_timeout_s):
                response = await self._send(request)
        except TimeoutError as error:
            raise OperationalError("no response in time (TALLY_QUERY_TIMEOUT_MS)") from error
        except OSError as error:
            raise OperationalError(f"the connection failed: {error}") from error
        if response.status != _OK or response.code:
            raise DatabaseError(response.body[:ERROR_CHARACTERS].decode(errors="replace").strip(), code=response.code)
        return response.body

    def close(self) -> None:
        """Close idle connections."""
        while self._idle:
            self._idle.pop().abort()

    def _request(self, sql: str, parameters: TextParameters) -> bytes:
        bound = "".join(f"&param_{name}={_bound(value)}" for name, value in parameters.items())
        body = sql.encode()
        head = f"POST {self._path}{bound} HTTP/1.1\r\n{self._headers}Content-Length: {len(body)}\r\n\r\n"
        return head.encode() + body

    async def _send(self, request: bytes) -> "_Response":
        while self._idle:
            kept = self._idle.pop()
            try:
                return await self._exchange(kept, request)
            except _NoResponse:
                continue  # closed by the server since its last query
        return await self._exchange(await self._connect(), request)

    async def _exchange(self, connection: "_Connection", request: bytes) -> "_Response":
        try:
            response = await connection.exchange(request)
        except BaseException:
            connection.abort()
            raise
        if connection.is_reusable:
            self._idle.append(connection)
        else:
            connection.abort()
        return response

    async def _connect(self) -> "_Connection":
        endpoint = self._endpoint
        try:
            async with asyncio.timeout(endpoint.connect_timeout_s):
                _, connection = await asyncio.get_running_loop().create_connection(
                    _Connection, endpoint.host, endpoint.port, ssl=endpoint.trust
                )
        except TimeoutError as error:
            raise ConnectionError("no connection in time (TALLY_CONNECT_TIMEOUT_MS)") from error
        return connection


class _Response(NamedTuple):
    status: int
    code: int
    """ClickHouse's code of an error; 0 without one."""
    body: bytes


class _NoResponse(ConnectionError):
    """Connection that was closed before the first byte of the response."""


class _Connection(asyncio.Protocol):
    """HTTP/1.1 connection that sends one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._response: asyncio.Future[_Response] | None = None
        self._closed: Exception | None = None
        self.is_reusable = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  (of a stream socket)
        self._transport = transport

    async def exchange(self, request: bytes) -> _Response:
        """Send a request and return its response. Raises OSError, _NoResponse among them."""
        if self._closed is not None:
            raise self._closed
        self._response = asyncio.get_running_loop().create_future()
        self._parser = httptools.HttpResponseParser(self)
        self._code, self._size, self._parts = 0, 0, list[bytes]()
        self._transport.write(request)
        try:
            return await self._response
        finally:
            self._response = None

    def abort(self) -> None:
        """Close the connection at once."""
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._response is None or self._response.done():
            self._transport.abort()  # unasked for
            return
        self._size += len(data)
        if self._size > RESPONSE_BYTES:
            self._response.set_exception(OSError(f"the response is larger than {RESPONSE_BYTES} bytes"))
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            if not self._response.done():
                self._response.set_exception(OSError(f"the response is not HTTP: {error}"))

    def connection_lost(self, error: Exception | None) -> None:
        self._closed = _NoResponse("the connection is closed")
        if self._response is not None and not self._response.done():
            begun = self._size > 0
            why = str(error or "the server closed the connection")
            self._response.set_exception(ConnectionError(why) if begun else _NoResponse(why))

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"x-clickhouse-exception-code" and value.isdigit():
            self._code = int(value)

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)

    def on_message_complete(self) -> None:
        self.is_reusable = self._parser.should_keep_alive()
        if self._response is not None and not self._response.done():
            self._response.set_result(_Response(self._parser.get_status_code(), self._code, b"".join(self._parts)))


_ESCAPED = str.maketrans({"\\": "\\\\", "'": "\\'", "\t": "\\t", "\n": "\\n"})


def _bound(value: str | Sequence[str]) -> str:
    """Return a parameter as ClickHouse reads it from a URL: a text escaped, a list of texts as an array literal."""
    if isinstance(value, str):
        return _escaped(value)
    return f"%5B{','.join([f'%27{_escaped(each)}%27' for each in value])}%5D"


def _escaped(text: str) -> str:
    return quote(text.translate(_ESCAPED), safe="")
