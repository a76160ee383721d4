"""Arrow record batches from a stream of bytes that arrives in pieces."""

from collections.abc import AsyncIterator

import pyarrow as pa
from pyarrow import ipc

_WORD = 8
"""Messages of an Arrow stream begin with two 4-byte numbers, and their parts are padded to 8 bytes."""
_CONTINUED = b"\xff\xff\xff\xff"


async def record_batches(pieces: AsyncIterator[bytes]) -> AsyncIterator[pa.RecordBatch]:
    """Yield the record batches of an Arrow stream, each as soon as it has arrived whole.

    Memory: one batch and the next piece. The stream has no dictionaries. Raises ValueError for a stream that breaks
    off.
    """
    held = bytearray()
    schema: pa.Schema | None = None
    async for piece in pieces:
        held += piece
        while (found := _first_message(held)) is not None:
            message, size = found
            held = held[size:]  # the message keeps the memory of the old one
            if schema is None:
                schema = ipc.read_schema(message)
            else:
                yield ipc.read_record_batch(message, schema)
    if schema is None or bytes(held) not in (b"", _CONTINUED + bytes(4)):
        raise ValueError("the Arrow stream has no end")


def _first_message(held: bytearray) -> tuple[ipc.Message, int] | None:
    """Return the first message with its size in bytes; None if more bytes are needed."""
    head = int.from_bytes(held[4:_WORD], "little")
    if len(held) < _WORD or head == 0 or len(held) < _WORD + head:
        return None
    try:
        message = ipc.read_message(pa.py_buffer(held))
    except (pa.ArrowInvalid, OSError):
        return None  # the body of the message is incomplete
    body = 0 if message.body is None else -(-message.body.size // _WORD) * _WORD
    return message, _WORD + head + body
