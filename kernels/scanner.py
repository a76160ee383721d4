"""The scanner: accepts nearly every event in about a microsecond, into columns, and leaves the rest to the validator.

It accepts only events that the validator accepts, and finds the same values. It never rejects: the validator has the
last word, and events that only the validator accepts get equal columns from its result: later stages cannot tell
which of both decided.
"""

from collections.abc import Sequence
from operator import attrgetter
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from msgspec import Raw

from kernels.scan_event import NUMBER_FIELDS, SHORTEST_TYPE_BYTES, SPAN_FIELDS, Columns, Integers, scan_events, select
from kernels.scan_json import Bytes
from schemas.identity import id_bytes
from schemas.interaction import INTERACTION_TYPES, names_of
from schemas.rejection import Rejection
from schemas.validator import validate
from schemas.wire import NULL, ValidEvent

_NO_SPAN = (0, 0, -1)
_NO_ID = bytes(16)
_span_values = attrgetter(*SPAN_FIELDS)
_integers = attrgetter(*names_of("integer"))
_TYPE_NUMBERS = {name: number for number, name in enumerate(INTERACTION_TYPES)}


class Scanned(NamedTuple):
    """Valid events, one row each in every column, and the rejections of the others."""

    text: Bytes
    """Text that the spans refer to: the input, or a copy with more text after it."""
    records: npt.NDArray[np.int64]
    """Index of the value of each row. Ascending."""
    columns: Columns
    rejections: dict[int, Rejection]
    """Rejections of the values that have no row, by their index."""


def scan_or_validate(text: Bytes, values: Integers) -> Scanned:
    """Scan record values, and validate those that the scanner leaves undecided.

    `values` holds the start of each value in `text`, and its size, -1 for null (n x 2). Never raises for any bytes.
    """
    starts, ends = values[:, 0].copy(), values[:, 0] + np.maximum(values[:, 1], 0)
    columns, valid = scan(text, starts, ends)
    if valid.all():
        return Scanned(text, np.arange(len(values)), columns, {})
    validated, rejections = dict[int, ValidEvent](), dict[int, Rejection]()
    for index in np.flatnonzero(~valid).tolist():
        verdict = validate(None if values[index, 1] < 0 else text[starts[index] : ends[index]].tobytes())
        if isinstance(verdict, ValidEvent):
            validated[index] = verdict
        else:
            rejections[index] = verdict
    records = np.flatnonzero(valid)
    columns = select(columns, records)
    if validated:
        written, others = encode_columns([*validated.values()], len(text))
        text = np.concatenate([text, np.frombuffer(written, np.uint8)])
        text.flags.writeable = False  # as all texts are: for another kind of array everything is compiled again
        records = np.concatenate([records, np.array([*validated])])
        order = np.argsort(records)
        records, columns = records[order], select(concatenate(columns, others), order)
    return Scanned(text, records, columns, rejections)


def scan(text: Bytes, starts: Integers, ends: Integers) -> tuple[Columns, npt.NDArray[np.bool_]]:
    """Scan ranges of a text, one event each; return columns with a row per range, and a flag for each valid row.

    An event is valid if its flag says so; otherwise it is undecided, and its row undefined. Never raises for any bytes.
    Allocates a few hundred bytes per range, and one byte for each SHORTEST_TYPE_BYTES of the text.
    """
    columns = _allocate(len(starts), int((ends - starts).sum()))
    return columns, scan_events(text, starts, ends, columns)


def _allocate(rows: int, text_bytes: int) -> Columns:
    return Columns(
        spans=np.empty((rows, len(SPAN_FIELDS), 3), np.int64),
        numbers=np.empty((rows, len(NUMBER_FIELDS)), np.int64),
        ids=np.empty((rows, 16), np.uint8),
        has_id=np.empty(rows, np.bool_),
        types=np.empty(text_bytes // SHORTEST_TYPE_BYTES + 1, np.int8),
        type_ends=np.zeros(rows + 1, np.int32),
    )


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
