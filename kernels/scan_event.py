"""Scanning of events from their JSON text into columns."""

import json
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kernels.compiled import compiled
from kernels.scan_fields import NOT_FOUND, find_word, scan_id, scan_int32, scan_time, vocabulary
from kernels.scan_json import (
    CLOSE_ARRAY,
    CLOSE_OBJECT,
    COMMA,
    OPEN_ARRAY,
    OPEN_OBJECT,
    QUOTE,
    UNSURE,
    Bytes,
    is_null,
    scan_key,
    scan_number,
    scan_object,
    scan_string,
    skip_space,
)
from kernels.wide import WIDE, same_bytes
from schemas.identity import ID_LENGTH
from schemas.interaction import FIELDS, INTERACTION_TYPES, MAX_TYPES, names_of

Integers = npt.NDArray[np.int64]

MAX_FLOAT_BYTES = 400
"""Longest number that the scanner takes for a field of kind `float`; the validator decides about longer ones."""

SPAN_FIELDS = names_of("text", "float", "object")
"""Fields stored as a span of the text."""
NUMBER_FIELDS = names_of("integer", "time")
SPAN_AT = {name: number for number, name in enumerate(SPAN_FIELDS)}
NUMBER_AT = {name: number for number, name in enumerate(NUMBER_FIELDS)}

_NAMES = (*SPAN_FIELDS, *NUMBER_FIELDS, "interaction_id", "interaction_type", "document_id")
_FIELDS = vocabulary(_NAMES)
_KEY_SIZES = np.array([len(f'"{name}":') for name in _NAMES])
_KEYS = np.frombuffer(b"".join(f'"{name}":'.encode().ljust(WIDE) for name in _NAMES), np.uint8)
_TYPES = vocabulary(INTERACTION_TYPES)
_MAX_BYTES = {field.name: field.max_bytes for field in FIELDS}
_LIMITS = np.array([_MAX_BYTES[name] or MAX_FLOAT_BYTES for name in SPAN_FIELDS])
"""By field of SPAN_FIELDS, the largest number of bytes of UTF-8."""

_FEATURE_ID, _DOCUMENT_ID = _NAMES.index("feature_id"), _NAMES.index("document_id")
_FIRST_FLOAT = len(names_of("text"))
_FIRST_OBJECT = len(names_of("text", "float"))
_FIRST_NUMBER, _OCCURRED_AT = len(SPAN_FIELDS), _NAMES.index("occurred_at")
_RESULT_SET_SIZE = NUMBER_AT["result_set_size"]
_INTERACTION_ID, _INTERACTION_TYPE = _NAMES.index("interaction_id"), _NAMES.index("interaction_type")
_ZERO_RESULTS = INTERACTION_TYPES.index("zero_results")
_REQUIRED = sum(1 << _NAMES.index(field.name) for field in FIELDS if field.required)

SHORTEST_TYPE_BYTES = min(map(len, INTERACTION_TYPES)) + len('"",')


class Columns(NamedTuple):
    """Columns of scanned events, one row each; -1 stands for an absent field."""

    spans: Integers
    """By row and field of SPAN_FIELDS: start in the text, size there, and size as UTF-8 without escapes, in bytes."""
    numbers: Integers
    """By row and field of NUMBER_FIELDS. Times are milliseconds since 1970."""
    ids: Bytes
    """By row: the 16 bytes of the id; undefined where `has_id` is false."""
    has_id: npt.NDArray[np.bool_]
    types: npt.NDArray[np.int8]
    """Types of all events, one event after the other, as indices of INTERACTION_TYPES."""
    type_ends: npt.NDArray[np.int32]
    """Ends of each row's types, after a 0."""


def read_text(text: Bytes, columns: "Columns", field: str, row: int) -> str | None:
    """Decode one text field of one event; None when it is absent. `text` is that of the scan."""
    start, size, decoded_size = columns.spans[row, SPAN_AT[field]].tolist()
    if decoded_size < 0:
        return None
    raw = text[start : start + size].tobytes()
    found: str = json.loads(b'"%b"' % raw) if size != decoded_size else raw.decode()
    return found


def select(columns: Columns, rows: slice | npt.NDArray[Any]) -> Columns:
    """Return the columns of some rows: a slice, row numbers, or a flag for each row. A slice shares memory."""
    starts, ends = columns.type_ends[:-1][rows], columns.type_ends[1:][rows]
    counts = ends - starts
    new_ends = np.zeros(len(counts) + 1, np.int32)
    np.cumsum(counts, out=new_ends[1:])
    positions = np.arange(new_ends[-1]) + np.repeat(starts - new_ends[:-1], counts)
    return Columns(
        columns.spans[rows],
        columns.numbers[rows],
        columns.ids[rows],
        columns.has_id[rows],
        columns.types[positions],
        new_ends,
    )


def scan_events(text: Bytes, starts: Integers, ends: Integers, into: Columns) -> npt.NDArray[np.bool_]:
    """Scan ranges of `text` into the rows of columns; return which are valid events. The others are undecided.

    `into.types` must have room for all types that the ranges can hold (SHORTEST_TYPE_BYTES each), and one more.
    """
    valid = np.empty(len(starts), np.bool_)
    _scan_events(text, starts, ends, np.zeros(len(_NAMES), np.int64), into, valid)
    return valid


@compiled
def _scan_events(
    text: Bytes, starts: Integers, ends: Integers, follows: Integers, into: Columns, valid: npt.NDArray[np.bool_]
) -> None:
    for row in range(len(starts)):
        types_start = into.type_ends[row]
        for field in range(len(_LIMITS)):
            into.spans[row, field, 2] = -1
        for field in range(into.numbers.shape[1]):
            into.numbers[row, field] = -1
        into.has_id[row] = False
        into.type_ends[row + 1] = types_start
        valid[row] = scan_event(text, starts[row], ends[row], follows, row, into)
        if not valid[row]:
            into.type_ends[row + 1] = types_start


@compiled
def scan_event(text: Bytes, at: int, end: int, follows: Integers, row: int, into: Columns) -> bool:
    """Scan one event into a row; return whether it is valid."""
    seen, field = 0, 0
    at = skip_space(text, at, end)
    if at >= end or text[at] != OPEN_OBJECT:
        return False
    while at < end and (text[at] == COMMA or seen == 0):
        at, field = scan_name(text, skip_space(text, at + 1, end), end, field, follows)
        if at == UNSURE:
            return False
        target = _FEATURE_ID if field == _DOCUMENT_ID else field
        if seen >> target & 1:
            return False
        seen |= 1 << target
        at = skip_space(text, at, end)
        if is_null(text, at, end) and not _REQUIRED >> target & 1:
            at += len("null")
        else:
            at = scan_field(text, at, end, target, row, into)
            if at == UNSURE:
                return False
        at = skip_space(text, at, end)
    if at >= end or text[at] != CLOSE_OBJECT or skip_space(text, at + 1, end) != end:
        return False
    return seen & _REQUIRED == _REQUIRED and (
        into.numbers[row, _RESULT_SET_SIZE] != 0 or has_type(into, row, _ZERO_RESULTS)
    )


@compiled
def scan_name(text: Bytes, at: int, end: int, before: int, follows: Integers) -> tuple[int, int]:
    """Scan the name of a field and its colon; return the position after them, or UNSURE, and the field.

    Events of one producer have fields in the same order. `follows` is that order: by field, the one that followed it
    last time.
    """
    likely = follows[before]
    size = _KEY_SIZES[likely]
    if at + size <= end and at + WIDE <= len(text) and same_bytes(text, at, _KEYS, likely * WIDE) >= size:
        return at + size, likely
    first = at + 1
    at = scan_key(text, at, end)
    if at == UNSURE:
        return UNSURE, 0
    name_end = at - 1
    while text[name_end] != QUOTE:
        name_end -= 1
    field = find_word(text, first, name_end, _FIELDS)
    if field == NOT_FOUND:
        return UNSURE, 0
    follows[before] = field
    return at, field


@compiled
def scan_field(text: Bytes, at: int, end: int, field: int, row: int, into: Columns) -> int:
    """Scan the value of a field."""
    if at >= end:
        return UNSURE
    if field < _FIRST_NUMBER:
        return scan_span(text, at, end, field, row, into.spans)
    if field == _OCCURRED_AT:
        return scan_occurred_at(text, at, end, row, into.numbers)
    if field < _INTERACTION_ID:
        at, into.numbers[row, field - _FIRST_NUMBER] = scan_int32(text, at, end)
        return at
    if field == _INTERACTION_TYPE:
        return scan_types(text, at, end, row, into)
    if text[at] != QUOTE or not scan_id(text, at + 1, end, row, into.ids):
        return UNSURE
    into.has_id[row] = True
    at += 1 + ID_LENGTH
    return at + 1 if at < end and text[at] == QUOTE else UNSURE


@compiled
def scan_span(text: Bytes, at: int, end: int, field: int, row: int, spans: Integers) -> int:
    """Scan a text, an object or a float."""
    start = at
    if field < _FIRST_FLOAT:
        if text[at] != QUOTE:
            return UNSURE
        start = at + 1
        span_end, size = scan_string(text, start, end)
        at = span_end + 1
    elif field < _FIRST_OBJECT:
        span_end = at = scan_number(text, at, end)
        size = span_end - start
    else:
        span_end = at = scan_object(text, at, end) if text[at] == OPEN_OBJECT else UNSURE
        size = span_end - start
    if span_end == UNSURE or size > _LIMITS[field]:
        return UNSURE
    spans[row, field, 0], spans[row, field, 1], spans[row, field, 2] = start, span_end - start, size
    return at


@compiled
def scan_occurred_at(text: Bytes, at: int, end: int, row: int, numbers: Integers) -> int:
    """Scan a time."""
    if text[at] != QUOTE:
        return UNSURE
    first = at + 1
    at, size = scan_string(text, first, end)
    if at == UNSURE or size != at - first:
        return UNSURE
    time_ms = scan_time(text, first, at)
    numbers[row, _OCCURRED_AT - _FIRST_NUMBER] = time_ms
    return UNSURE if time_ms == UNSURE else at + 1


@compiled
def scan_types(text: Bytes, at: int, end: int, row: int, into: Columns) -> int:
    """Scan the list of types."""
    if text[at] != OPEN_ARRAY:
        return UNSURE
    for count in range(MAX_TYPES):
        first = skip_space(text, at + 1, end) + 1
        if first > end or text[first - 1] != QUOTE:
            return UNSURE
        at, _ = scan_string(text, first, end)
        kind = NOT_FOUND if at == UNSURE else find_word(text, first, at, _TYPES)
        if kind == NOT_FOUND:
            return UNSURE
        into.types[into.type_ends[row] + count] = kind
        into.type_ends[row + 1] += 1
        at = skip_space(text, at + 1, end)
        if at < end and text[at] == CLOSE_ARRAY:
            return at + 1
        if at >= end or text[at] != COMMA:
            return UNSURE
    return UNSURE


@compiled
def has_type(into: Columns, row: int, kind: int) -> bool:
    """Return whether a type is among those of a row."""
    for i in range(into.type_ends[row], into.type_ends[row + 1]):
        if into.types[i] == kind:
            return True
    return False
