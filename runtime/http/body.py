"""Request bodies: read whole, within a bound, whether their size is announced, chunked or compressed."""

import asyncio
import codecs
import json
from collections.abc import Callable, Sequence
from typing import Any, Never, TypeVar

import msgspec
from fastapi import Request, Response
from pydantic import BaseModel, ValidationError
from starlette.types import Receive, Scope, Send

from runtime.http.content_encoding import codings_of, decompress
from runtime.http.errors import ApiError, invalid, problem, too_large
from schemas.json_bounds import MAX_DEPTH, depth_of_text

MAX_KEYS = 200
"""Largest number of keys in an object of a request that is no event: twice a filter's conditions."""
_PIECE_BYTES = 256 * 1024
_SMALL_BYTES = 2 * 1024
"""Compressed; a thousand times as much at most when it is not."""

Model = TypeVar("Model", bound=BaseModel)


async def read_body(request: Request, limit_bytes: int, timeout_ms: int, take: Callable[[int], None]) -> bytes:
    """The body, uncompressed, without a byte order mark. `take` is told of every byte that is kept, and may raise.

    Raises ApiError: 413 when it is larger, 408 when it comes too slowly, 400, 415.
    """
    announced = request.headers.get("content-length", "0")
    if announced.isdigit() and int(announced) > limit_bytes:
        raise too_large(limit_bytes)
    codings = codings_of(request.headers.getlist("content-encoding"))
    try:
        async with asyncio.timeout(timeout_ms / 1000):
            body = await _read(request, limit_bytes, take)
    except TimeoutError:
        raise ApiError(408, f"the body did not arrive within {timeout_ms} ms") from None
    if codings:
        # What is larger holds the event loop for long: zlib works without the interpreter's lock.
        if len(body) > _SMALL_BYTES or len(codings) > 1:
            body = await asyncio.to_thread(decompress, body, codings, limit_bytes)
        else:
            body = decompress(body, codings, limit_bytes)
        take(len(body))
    return _as_utf8(body)


async def _read(request: Request, limit_bytes: int, take: Callable[[int], None]) -> bytes:
    body = bytearray()  # and no list of chunks: a million of one byte would take fifty times as much
    async for chunk in request.stream():
        if len(body) + len(chunk) > limit_bytes:
            raise too_large(limit_bytes)
        take(len(chunk))
        body += chunk
    return bytes(body)


def _as_utf8(body: bytes) -> bytes:
    """The body without a byte order mark, which RFC 8259 lets readers ignore. Raises ApiError for UTF-16 and UTF-32."""
    if body.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in body[:4]:
        raise invalid([problem("not_utf8", ["body"], "is UTF-16 or UTF-32: send UTF-8")], status=400)
    return body.removeprefix(codecs.BOM_UTF8)


def read_json(body: bytes) -> Any:
    """The JSON value of a body; None for an empty one. Raises ApiError: 400 when it is no JSON, 422 beyond a bound."""
    try:
        text = body.decode()
        if not text.strip():
            return None
        depth = depth_of_text(text)
        if depth > MAX_DEPTH:
            raise invalid([problem("too_deep", ["body"], f"nests {depth} levels, at most {MAX_DEPTH} are allowed")])
        return json.loads(text, object_pairs_hook=_small_object, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise invalid([problem("not_utf8", ["body"], f"invalid UTF-8 at byte {error.start}")], status=400) from None
    except ValueError as error:  # also an integer of more digits than the interpreter reads
        raise invalid([problem("not_json", ["body"], str(error)[:200])], status=400) from None


def _small_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of a request that is no event. Each key that a model does not know would become an error."""
    if len(pairs) > MAX_KEYS:
        raise invalid(
            [problem("too_many", ["body"], f"an object has {len(pairs)} keys, at most {MAX_KEYS} are allowed")]
        )
    return dict(pairs)


def read_model(model: type[Model], body: bytes) -> Model:
    """A body as a model, strictly, whatever content type it claims; an empty one is `{}`. Raises ApiError."""
    try:
        value = read_json(body)
        return model.model_validate({} if value is None else value)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        raise invalid([problem(each["type"], ["body", *each["loc"]], each["msg"]) for each in found]) from None


def json_response(value: Any, headers: dict[str, str] | None = None) -> Response:
    """A 200 with a value as JSON; objects stay the text they were."""
    return Response(msgspec.json.encode(value), media_type="application/json", headers=headers)


class ChunkedJsonResponse(Response):
    """A 200 with JSON that is sent piece by piece, as fast as the client reads: the connection buffers little of it."""

    media_type = "application/json"

    def __init__(self, parts: Sequence[bytes]) -> None:
        self._size = sum(map(len, parts))
        super().__init__(headers={"content-length": str(self._size)})
        self._parts = parts

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Send it."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for part in self._parts if self._size > _PIECE_BYTES else [b"".join(self._parts)]:
            for start in range(0, len(part), _PIECE_BYTES):
                piece = part[start : start + _PIECE_BYTES]
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def _no_constant(name: str) -> Never:
    raise ValueError(f"{name} is not JSON")
