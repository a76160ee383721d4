"""Streaming decoder of request bodies, which never holds a whole body."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from io import BytesIO
from typing import Any

from python_multipart import parse_form
from python_multipart.exceptions import FormParserError

from deploy.embedded.clickhouse_http.codecs import Decoder
from deploy.embedded.clickhouse_http.errors import (
    BAD_ARGUMENTS,
    NOT_IMPLEMENTED,
    SOCKET_TIMEOUT,
    SYNTAX_ERROR,
    error,
)
from deploy.embedded.clickhouse_http.statement import Statement, decode_sql, is_insert, plan, split_insert

Receive = Callable[[], Awaitable[Any]]

RECEIVE_TIMEOUT_S = 30.0
"""Like ClickHouse's http_receive_timeout: a stalled upload must not keep its slot."""

MAX_FORM_BYTES = 16 * 1024 * 1024
MAX_QUERY_BYTES = 1024 * 1024
"""Largest statement without streamed rows. ClickHouse's own max_query_size is a quarter of it."""


class ClientDisconnected(Exception):
    """Disconnect of the client before its response."""


async def decoded(receive: Receive, encoding: str) -> AsyncIterator[bytes]:
    """Yield the decoded body. Raises ClientGone when the client leaves before its end."""
    decoder = Decoder(encoding)
    empty = more = True
    while more:
        try:
            async with asyncio.timeout(RECEIVE_TIMEOUT_S):
                message = await receive()
        except TimeoutError:
            raise error(SOCKET_TIMEOUT, f"The client sent nothing for {RECEIVE_TIMEOUT_S:.0f} s") from None
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
            raise error(BAD_ARGUMENTS, f"The form is larger than {MAX_FORM_BYTES} bytes")
    fields: dict[str, str] = {}

    def keep(field: Any) -> None:
        fields[field.field_name.decode(errors="replace")] = (field.value or b"").decode(errors="replace")

    def refuse(_file: Any) -> None:
        raise error(NOT_IMPLEMENTED, "External data (a file in the form) is not supported")

    try:
        parse_form({"Content-Type": content_type.encode()}, BytesIO(whole), keep, refuse)
    except (FormParserError, ValueError) as broken:
        raise error(BAD_ARGUMENTS, f"The form cannot be read: {broken}") from broken
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
            raise error(SYNTAX_ERROR, f"Max query size exceeded: {MAX_QUERY_BYTES} bytes")
    whole = text if text.endswith(b"\n") else text + b"\n"
    if is_insert(whole) and (insert := split_insert(whole)) and insert.kind == "stream_in":
        return insert
    sql = decode_sql(text)
    if not sql:
        raise error(SYNTAX_ERROR, "Empty query")
    return plan(sql, default_format)
