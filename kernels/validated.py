"""Columns of the events that the scanner leaves to the validator, written from the validator's result in Python.

They equal the columns that the scanner would fill, so later stages cannot tell which of both decided.
"""

from collections.abc import Sequence
from operator import attrgetter

import numpy as np
from msgspec import Raw

from kernels.scan_event import NUMBER_FIELDS, SPAN_FIELDS, Columns
from schemas.identity import id_bytes
from schemas.interaction import INTERACTION_TYPES, names_of
from schemas.wire import NULL, ValidEvent

_NO_SPAN = (0, 0, -1)
_NO_ID = bytes(16)
_span_values = attrgetter(*SPAN_FIELDS)
_integers = attrgetter(*names_of("integer"))
_TYPE_NUMBERS = {name: number for number, name in enumerate(INTERACTION_TYPES)}


def encode_columns(validated: Sequence[ValidEvent], start: int) -> tuple[bytes, Columns]:
    """Encode valid events as columns; also return the text of their spans, whose first byte is at position `start`.

    The text has no escapes, so both sizes of each span are equal.
    """
    texts, ids = list[bytes](), list[bytes]()
    spans, numbers, types, type_ends = list[int](), list[int](), list[int](), [0]
    for event, occurred_ms in validated:
        for value in _span_values(event):
            if value is None or value is NULL:
                spans += _NO_SPAN
                continue
            text = _encode_text(value)
            spans += (start, len(text), len(text))
            texts.append(text)
            start += len(text)
        numbers += [-1 if each is None else each for each in (*_integers(event), occurred_ms)]
        ids.append(_NO_ID if event.interaction_id is None else id_bytes(event.interaction_id))
        types += map(_TYPE_NUMBERS.__getitem__, event.interaction_type)
        type_ends.append(len(types))
    columns = Columns(
        np.array(spans, np.int64).reshape(-1, len(SPAN_FIELDS), 3),
        np.array(numbers, np.int64).reshape(-1, len(NUMBER_FIELDS)),
        np.frombuffer(b"".join(ids), np.uint8).reshape(-1, 16),
        np.array([event.interaction_id is not None for event, _ in validated], np.bool_),
        np.array(types, np.int8),
        np.array(type_ends, np.int32),
    )
    return b"".join(texts), columns


def _encode_text(value: str | float | Raw) -> bytes:
    if isinstance(value, str):
        return value.encode()
    return repr(value).encode() if isinstance(value, float) else bytes(value)


def concatenate(first: Columns, second: Columns) -> Columns:
    """Append the rows of the second to those of the first."""
    end = first.type_ends[-1]
    return Columns(
        np.concatenate([first.spans, second.spans]),
        np.concatenate([first.numbers, second.numbers]),
        np.concatenate([first.ids, second.ids]),
        np.concatenate([first.has_id, second.has_id]),
        np.concatenate([first.types[:end], second.types]),
        np.concatenate([first.type_ends, end + second.type_ends[1:]]),
    )
