"""Compressed request bodies: the Content-Encoding header, and decompression within a bound."""

import zlib
from collections.abc import Sequence

from runtime.http.errors import ApiError, too_large

MAX_CODINGS = 3
"""Maximum codings applied to one body."""
MAX_MEMBERS = 1_000
"""Maximum members of a gzip body (RFC 1952). An empty one is only 20 bytes, so the body's size is no bound."""
_PIECE_BYTES = 64 * 1024
_GZIP, _ZLIB, _RAW = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS
"""zlib's `wbits`: 16 more for gzip's frame, negative for none."""
_METHOD_MASK, _CHECK_DIVISOR = 0x0F, 31
_WBITS = {"gzip": _GZIP, "x-gzip": _GZIP, "deflate": _ZLIB}


def codings_of(headers: Sequence[str]) -> Sequence[str]:
    """Return the codings of Content-Encoding headers, in order of application. Raises ApiError 415."""
    named = [name.strip().lower() for header in headers for name in header.split(",")]
    codings = [name for name in named if name not in ("", "identity")]
    accepts = {"Accept-Encoding": "gzip, deflate"}
    if unknown := next((name for name in codings if name not in _WBITS), None):
        raise ApiError(415, f"Content-Encoding {unknown[:40]!r}: send it plain, gzip or deflate", headers=accepts)
    if len(codings) > MAX_CODINGS:
        raise ApiError(415, f"{len(codings)} content codings, at most {MAX_CODINGS} are allowed", headers=accepts)
    return codings


def decompress(body: bytes, codings: Sequence[str], limit_bytes: int) -> bytes:
    """Undo the codings of a body. Raises ApiError: 413 when it becomes too large, 400 when it does not match them."""
    for coding in reversed(codings):
        body = _inflated(body, _RAW if coding == "deflate" and not _is_zlib(body) else _WBITS[coding], limit_bytes)
    return body


def _is_zlib(body: bytes) -> bool:
    """Return whether a deflate body has zlib's header (RFC 1950), as it should. Some clients send the raw stream."""
    has_method = body[:1] != b"" and body[0] & _METHOD_MASK == zlib.DEFLATED
    return has_method and int.from_bytes(body[:2]) % _CHECK_DIVISOR == 0


def _inflated(body: bytes, wbits: int, limit_bytes: int) -> bytes:
    # In pieces: the rest after a member is copied, and there may be many members.
    rest, parts, room = memoryview(body), list[bytes](), limit_bytes + 1
    for _ in range(MAX_MEMBERS if wbits == _GZIP else 1):
        stream = zlib.decompressobj(wbits)
        while not stream.eof:
            if not rest:
                raise ApiError(400, "the compressed body ends too early")
            piece = rest[:_PIECE_BYTES]
            try:
                parts.append(stream.decompress(piece, room))
            except zlib.error:
                raise ApiError(400, "the body does not match its Content-Encoding") from None
            room -= len(parts[-1])
            if not room:
                raise too_large(limit_bytes)
            rest = rest[len(piece) - len(stream.unused_data) :]
        if not rest:
            return b"".join(parts)
    kind = f"more than {MAX_MEMBERS} gzip members" if wbits == _GZIP else "bytes after its compressed data"
    raise ApiError(400, f"the body has {kind}")
