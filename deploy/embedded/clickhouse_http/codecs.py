"""Compressed bodies in the encodings of clickhouse-connect and curl, chunk by chunk."""

import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import lz4.frame

from deploy.embedded.clickhouse_http.errors import CANNOT_DECOMPRESS, NOT_IMPLEMENTED, error

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_GZIP = 16 + zlib.MAX_WBITS


PIECE_BYTES = 1024 * 1024
"""Largest output of one decompression step: a small body can expand to gigabytes of zeros."""


class Encoder(NamedTuple):
    """Encoder of successive chunks; `finish` returns the compressor's remaining bytes."""

    feed: Callable[[bytes], bytes]
    finish: Callable[[], bytes]


IDENTITY = Encoder(lambda chunk: chunk, bytes)


class Decoder:
    """Decoder of a request body of one or several frames, in pieces of at most PIECE_BYTES."""

    def __init__(self, encoding: str) -> None:
        if encoding and encoding not in _FRAMES:
            raise error(NOT_IMPLEMENTED, f"Content-Encoding {encoding[:40]!r}; supported are {', '.join(_FRAMES)}")
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
            raise error(CANNOT_DECOMPRESS, f"Cannot decompress the {self._encoding} body: {broken}") from broken

    def finish(self) -> None:
        """Raise ClickHouseError when the body ended inside a frame."""
        if self._frame is not None and not self._frame.eof:
            raise error(CANNOT_DECOMPRESS, f"The {self._encoding} body ends inside a frame")


class _Inflate:
    """Adapter of zlib's decompressor to the interface of those of lz4 and zstd."""

    def __init__(self, wbits: int) -> None:
        self._inflate = zlib.decompressobj(wbits)

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
    "gzip": lambda: _Inflate(_GZIP),
    "deflate": lambda: _Inflate(zlib.MAX_WBITS),
    "lz4": lz4.frame.LZ4FrameDecompressor,
    "zstd": zstd.ZstdDecompressor,
}


def compressor(accept_encoding: str) -> tuple[str, Encoder]:
    """Return the best encoding that a client accepts, and its encoder; `""` and the identity for none."""
    accepted = {part.split(";")[0].strip() for part in accept_encoding.split(",")}
    if "lz4" in accepted:
        frame = lz4.frame.LZ4FrameCompressor()
        begun = [frame.begin()]
        return "lz4", Encoder(
            lambda chunk: (begun.pop() if begun else b"") + frame.compress(chunk),
            lambda: (begun.pop() if begun else b"") + frame.flush(),
        )
    if "zstd" in accepted:
        packer = zstd.ZstdCompressor(level=1)
        return "zstd", Encoder(packer.compress, packer.flush)
    if "gzip" in accepted:
        deflate = zlib.compressobj(level=1, wbits=_GZIP)
        return "gzip", Encoder(deflate.compress, deflate.flush)
    return "", IDENTITY
