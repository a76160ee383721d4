"""Decompression of a Kafka batch's payload into a buffer of fixed size, so that it cannot take more memory than that.

Sizes stated by a payload are not trusted: each codec writes into the given buffer, and fails at its end.
"""

import struct

import cramjam

_NONE, _GZIP, _SNAPPY, _LZ4, _ZSTD = range(5)
_STREAMED = {
    _GZIP: cramjam.gzip.decompress_into,
    _LZ4: cramjam.lz4.decompress_into,
    _ZSTD: cramjam.zstd.decompress_into,
}
"""Each takes one frame after another until the payload ends, and raises when a frame is cut short."""
_BUFFER_IS_FULL = "failed to write whole buffer"
"""Start of the message that the three of them raise at the buffer's end; it is the Rust library's."""

_XERIAL_MAGIC = b"\x82SNAPPY\x00"
_XERIAL_HEADER_BYTES = 16
_BLOCK_SIZE = struct.Struct(">i")


class NoRoom(Exception):
    """The uncompressed payload is larger than the buffer."""


class Undecodable(Exception):
    """The payload is not valid for its codec, or the codec is not one of Kafka's."""


def decompress(codec: int, payload: memoryview, into: memoryview) -> int:
    """Write a payload's uncompressed bytes to the start of `into`, and return their count.

    Raises NoRoom or Undecodable; then the contents of `into` are undefined.
    """
    if codec == _NONE:
        if len(payload) > len(into):
            raise NoRoom
        into[: len(payload)] = payload
        return len(payload)
    try:
        if codec == _SNAPPY:
            return _decompress_snappy(payload, into)
        if codec in _STREAMED:
            return int(_STREAMED[codec](payload, into))
    except cramjam.DecompressionError as error:
        if str(error).startswith(_BUFFER_IS_FULL):
            raise NoRoom from None
        raise Undecodable(str(error)) from None
    raise Undecodable(f"codec {codec} is not one of Kafka's")


def _decompress_snappy(payload: memoryview, into: memoryview) -> int:
    """Snappy has no stream of its own: Java's clients put blocks into frames of the xerial library."""
    if payload[: len(_XERIAL_MAGIC)] != _XERIAL_MAGIC:
        return _decompress_block(payload, into)
    size, at = 0, _XERIAL_HEADER_BYTES
    while at < len(payload):
        start = at + _BLOCK_SIZE.size
        if start > len(payload):
            raise Undecodable("snappy: a block's size is cut short")
        (block_size,) = _BLOCK_SIZE.unpack_from(payload, at)
        if not 0 <= block_size <= len(payload) - start:
            raise Undecodable(f"snappy: a block of {block_size} bytes is not in the payload")
        at = start + block_size
        size += _decompress_block(payload[start:at], into[size:])
    return size


def _decompress_block(block: memoryview, into: memoryview) -> int:
    # The size that a block states is exact: the library writes no more, and refuses a block that holds less.
    if cramjam.snappy.decompress_raw_len(block) > len(into):
        raise NoRoom
    return int(cramjam.snappy.decompress_raw_into(block, into)) if len(block) else 0
