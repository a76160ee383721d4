"""Request bodies: read whole and bounded, with announced size, chunked or compressed."""

import asyncio
import codecs
import json
from collections.abc import Callable, Sequence
from typing import Any, Never, TypeVar

from fastapi import Response
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from runtime.http.content_encoding import codings_of, decompress
from runtime.http.errors import ApiError, invalid, problem, too_large
from runtime.http.headers import BODY_RECEIVED, headers_of, repeated_header
from schemas.json_bounds import MAX_DEPTH, depth_of_text

MAX_KEYS = 200
"""Maximum keys of an object in a request other than an event: twice the conditions of a filter. Unknown keys become
errors, each of them."""
_PIECE_BYTES = 256 * 1024
_SMALL_BYTES = 2 * 1024
"""Largest compressed body that is decompressed on the event loop; at most a thousand times larger uncompressed."""

Model = TypeVar("Model", bound=BaseModel)


async def read_body(
    scope: Scope, receive: Receive, limit_bytes: int, timeout_ms: int, take: Callable[[int], None]
) -> bytes:
    """Read the body, uncompressed, without a byte order mark. `take` receives the sizes read, and may raise.

    Raises ApiError: 413 when the body is too large, 408 when it is too slow, 400, 415.
    """
    announced = headers_of(scope).get("content-length", "0")
    if announced.isdigit() and int(announced) > limit_bytes:
        raise too_large(limit_bytes)
    codings = codings_of(repeated_header(scope, "content-encoding"))
    if BODY_RECEIVED in scope:  # without a timer, which takes a tenth of a small request's time
        body = await _read(receive, limit_bytes, take)
    else:
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                body = await _read(receive, limit_bytes, take)
        except TimeoutError:
            raise ApiError(408, f"the body did not arrive within {timeout_ms} ms") from None
    if codings:
        # A larger body would block the event loop; zlib releases the interpreter lock.
        if len(body) > _SMALL_BYTES or len(codings) > 1:
            body = await asyncio.to_thread(decompress, body, codings, limit_bytes)
        else:
            body = decompress(body, codings, limit_bytes)
        take(len(body))
    return _as_utf8(body)


async def _read(receive: Receive, limit_bytes: int, take: Callable[[int], None]) -> bytes:
    body = bytearray()  # a list of a million one-byte chunks would take fifty times the memory
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk: bytes = message.get("body", b"")
        if len(body) + len(chunk) > limit_bytes:
            raise too_large(limit_bytes)
        take(len(chunk))
        if not message.get("more_body", False):
            return bytes(body + chunk) if body else chunk
        body += chunk


def _as_utf8(body: bytes) -> bytes:
    """Return the body without its byte order mark (RFC 8259, section 8.1). Raises ApiError for UTF-16 and UTF-32."""
    if body.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in body[:4]:
        raise invalid([problem("not_utf8", ["body"], "is UTF-16 or UTF-32: send UTF-8")], status=400)
    return body.removeprefix(codecs.BOM_UTF8)


def read_json(body: bytes, max_keys: int = MAX_KEYS) -> Any:
    """Return the JSON value of a body, None for an empty one. Raises ApiError: 400 for no JSON, 422 for a bound.

    `max_keys`: of one object.
    """

    def bounded(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(pairs) > max_keys:
            raise invalid(
                [problem("too_many", ["body"], f"an object has {len(pairs)} keys, at most {max_keys} are allowed")]
            )
        return dict(pairs)

    try:
        text = body.decode()
        if not text.strip():
            return None
        depth = depth_of_text(text)
        if depth > MAX_DEPTH:
            raise invalid([problem("too_deep", ["body"], f"nests {depth} levels, at most {MAX_DEPTH} are allowed")])
        return json.loads(text, object_pairs_hook=bounded, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise invalid([problem("not_utf8", ["body"], f"invalid UTF-8 at byte {error.start}")], status=400) from None
    except ValueError as error:  # also an integer with more digits than the interpreter parses
        raise invalid([problem("not_json", ["body"], str(error)[:200])], status=400) from None


def read_model(model: type[Model], body: bytes, max_keys: int = MAX_KEYS) -> Model:
    """Validate a body as a model, regardless of its content type; an empty body is `{}`. Raises ApiError."""
    try:
        value = read_json(body, max_keys)
        return model.model_validate({} if value is None else value)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        raise invalid([problem(each["type"], ["body", *each["loc"]], each["msg"]) for each in found]) from None


class ChunkedJsonResponse(Response):
    """Response 200 with JSON in pieces, sent as fast as the client reads, so that little of it is buffered."""

    media_type = "application/json"

    def __init__(self, parts: Sequence[bytes]) -> None:
        self._size = sum(map(len, parts))
        super().__init__(headers={"content-length": str(self._size)})
        self._parts = parts

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Send the response."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for part in self._parts if self._size > _PIECE_BYTES else [b"".join(self._parts)]:
            for start in range(0, len(part), _PIECE_BYTES):
                piece = part[start : start + _PIECE_BYTES]
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def _no_constant(name: str) -> Never:
    raise ValueError(f"{name} is not JSON")
