"""Streaming decoder of request bodies, which never holds a whole body. Responses are not compressed."""

import asyncio
import sys
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from io import BytesIO
from typing import Any

import lz4.frame
from python_multipart import parse_form
from python_multipart.exceptions import FormParserError

from deploy.embedded.clickhouse_http.errors import ErrorCode, error
from deploy.embedded.clickhouse_http.statement import Statement, decode_sql, is_insert, plan, split_insert

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Receive = Callable[[], Awaitable[Any]]

PIECE_BYTES = 1024 * 1024
"""Largest output of one decompression step: a small body can expand to gigabytes of zeros."""

RECEIVE_TIMEOUT_S = 30.0
"""Like ClickHouse's http_receive_timeout: a stalled upload must not keep its slot."""

MAX_FORM_BYTES = 16 * 1024 * 1024
MAX_QUERY_BYTES = 1024 * 1024
"""Largest statement without streamed rows. ClickHouse's own max_query_size is a quarter of it."""


class ClientDisconnected(Exception):
    """Disconnect of the client before its response."""


class _Gunzip:
    """Adapter of zlib's decompressor to the interface of those of lz4 and zstd."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(16 + zlib.MAX_WBITS)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inflate.decompress(self._inflate.unconsumed_tail + data, max_length)

    @property
    def needs_input(self) -> bool:
        return not self._inflate.unconsumed_tail

    @property
    def eof(self) -> bool:
        return self._inflate.eof

    @property
    def unused_data(self) -> bytes:
        return self._inflate.unused_data


_FRAMES: dict[str, Callable[[], Any]] = {
    "gzip": _Gunzip,
    "lz4": lz4.frame.LZ4FrameDecompressor,
    "zstd": zstd.ZstdDecompressor,
}


class Decoder:
    """Decoder of a request body of one or several frames, in pieces of at most PIECE_BYTES."""

    def __init__(self, encoding: str) -> None:
        if encoding and encoding not in _FRAMES:
            raise error(
                ErrorCode.NOT_IMPLEMENTED, f"Content-Encoding {encoding[:40]!r}; supported are {', '.join(_FRAMES)}"
            )
        self._encoding = encoding
        self._frame = _FRAMES[encoding]() if encoding else None

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the decoded pieces of `data`."""
        if self._frame is None:
            yield data
            return
        try:
            while data or not self._frame.needs_input:
                if self._frame.eof:  # a further frame follows
                    self._frame = _FRAMES[self._encoding]()
                piece = self._frame.decompress(data, PIECE_BYTES)
                data = self._frame.unused_data if self._frame.eof else b""
                if piece:
                    yield piece
                if self._frame.eof and not data:
                    return
        except (zlib.error, zstd.ZstdError, RuntimeError, EOFError) as broken:
            raise error(
                ErrorCode.CANNOT_DECOMPRESS, f"Cannot decompress the {self._encoding} body: {broken}"
            ) from broken

    def finish(self) -> None:
        """Raise ClickHouseError when the body ended inside a frame."""
        if self._frame is not None and not self._frame.eof:
            raise error(ErrorCode.CANNOT_DECOMPRESS, f"The {self._encoding} body ends inside a frame")


async def decoded(receive: Receive, encoding: str) -> AsyncIterator[bytes]:
    """Yield the decoded body. Raises ClientDisconnected before its end."""
    decoder = Decoder(encoding)
    empty = more = True
    while more:
        try:
            async with asyncio.timeout(RECEIVE_TIMEOUT_S):
                message = await receive()
        except TimeoutError:
            raise error(ErrorCode.SOCKET_TIMEOUT, f"The client sent nothing for {RECEIVE_TIMEOUT_S:.0f} s") from None
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        more = message.get("more_body", False)
        if message.get("body"):
            empty = False
            for piece in decoder.feed(message["body"]):
                yield piece
    if not empty:
        decoder.finish()


async def read_form(body: AsyncIterator[bytes], content_type: str) -> dict[str, str]:
    """Read the text fields of a multipart form, by which clickhouse-connect sends parameters too long for a URL."""
    whole = b""
    async for chunk in body:
        whole += chunk
        if len(whole) > MAX_FORM_BYTES:
            raise error(ErrorCode.BAD_ARGUMENTS, f"The form is larger than {MAX_FORM_BYTES} bytes")
    fields: dict[str, str] = {}

    def keep(field: Any) -> None:
        fields[field.field_name.decode(errors="replace")] = (field.value or b"").decode(errors="replace")

    def refuse(_file: Any) -> None:
        raise error(ErrorCode.NOT_IMPLEMENTED, "External data (a file in the form) is not supported")

    try:
        parse_form({"Content-Type": content_type.encode()}, BytesIO(whole), keep, refuse)
    except (FormParserError, ValueError) as broken:
        raise error(ErrorCode.BAD_ARGUMENTS, f"The form cannot be read: {broken}") from broken
    return fields


async def read_statement(query: str, body: AsyncIterator[bytes], default_format: str | None) -> Statement:
    """Read as much of the request as its statement needs.

    Like in ClickHouse, the URL's query and the body are one text. The rest of `body` after the head of a streamed
    INSERT are its rows; any other statement is read to its end.
    """
    text = query.encode() + b"\n" if query else b""
    async for chunk in body:
        text += chunk
        if is_insert(text) and (insert := split_insert(text)) and insert.kind == "stream_in":
            return insert
        if len(text) > MAX_QUERY_BYTES:
            raise error(ErrorCode.SYNTAX_ERROR, f"Max query size exceeded: {MAX_QUERY_BYTES} bytes")
    whole = text if text.endswith(b"\n") else text + b"\n"
    if is_insert(whole) and (insert := split_insert(whole)) and insert.kind == "stream_in":
        return insert
    sql = decode_sql(text)
    if not sql:
        raise error(ErrorCode.SYNTAX_ERROR, "Empty query")
    return plan(sql, default_format)
