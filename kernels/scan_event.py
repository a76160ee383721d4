"""Reading one interaction from its JSON text, into the places of columns."""

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
from schemas.interaction import INTERACTION_TYPES, MAX_ID_BYTES, MAX_OBJECT_BYTES, MAX_TYPES, MAX_URI_BYTES

Integers = npt.NDArray[np.int64]

SPAN_FIELDS = {
    "feature_id": MAX_ID_BYTES,
    "user_id": MAX_ID_BYTES,
    "session_id": MAX_ID_BYTES,
    "execution_id": MAX_ID_BYTES,
    "retriever_id": MAX_ID_BYTES,
    "feature_uri": MAX_URI_BYTES,
    "document_score": 400,
    "metadata": MAX_OBJECT_BYTES,
    "query_snapshot": MAX_OBJECT_BYTES,
}
"""Fields of which the place in the text is noted, and how many bytes of UTF-8 they may have."""
NUMBER_FIELDS = ("position", "result_set_size", "occurred_at")
SPAN_AT = {name: number for number, name in enumerate(SPAN_FIELDS)}
NUMBER_AT = {name: number for number, name in enumerate(NUMBER_FIELDS)}

_NAMES = (*SPAN_FIELDS, *NUMBER_FIELDS, "interaction_id", "interaction_type", "document_id")
_FIELDS = vocabulary(_NAMES)
_KEY_SIZES = np.array([len(f'"{name}":') for name in _NAMES])
_KEYS = np.frombuffer(b"".join(f'"{name}":'.encode().ljust(WIDE) for name in _NAMES), np.uint8)
_TYPES = vocabulary(INTERACTION_TYPES)
_LIMITS = np.array(list(SPAN_FIELDS.values()))

_FEATURE_ID, _DOCUMENT_ID = _NAMES.index("feature_id"), _NAMES.index("document_id")
_DOCUMENT_SCORE, _METADATA = _NAMES.index("document_score"), _NAMES.index("metadata")
_FIRST_NUMBER, _OCCURRED_AT = _NAMES.index("position"), _NAMES.index("occurred_at")
_RESULT_SET_SIZE = NUMBER_AT["result_set_size"]
_INTERACTION_ID, _INTERACTION_TYPE = _NAMES.index("interaction_id"), _NAMES.index("interaction_type")
_ZERO_RESULTS = INTERACTION_TYPES.index("zero_results")
_REQUIRED = 1 << _FEATURE_ID | 1 << _INTERACTION_TYPE | 1 << _FIRST_NUMBER

SHORTEST_TYPE_BYTES = min(map(len, INTERACTION_TYPES)) + len('"",')


class Columns(NamedTuple):
    """Where the scanner puts what it reads. One line per text; what an event does not have is -1."""

    spans: Integers
    """By line and field of SPAN_FIELDS: where it begins, how many bytes it has, how many as UTF-8 without escapes."""
    numbers: Integers
    """By line and field of NUMBER_FIELDS: the number; times are milliseconds since 1970."""
    ids: Bytes
    """By line: the 16 bytes of its id."""
    has_id: npt.NDArray[np.bool_]
    types: npt.NDArray[np.int8]
    """Types of all events, one event after the other, as numbers of INTERACTION_TYPES."""
    type_ends: npt.NDArray[np.int32]
    """Where the types of a line end, after a 0."""


def text_at(text: Bytes, columns: "Columns", field: str, line: int) -> str | None:
    """The text in a field of the event on a line."""
    first, size, written = columns.spans[line, SPAN_AT[field]].tolist()
    if written < 0:
        return None
    raw = text[first : first + size].tobytes()
    found: str = json.loads(b'"%b"' % raw) if size != written else raw.decode()
    return found


def select(columns: Columns, lines: slice | npt.NDArray[Any]) -> Columns:
    """The columns of some lines: a slice, their numbers, or a flag for each."""
    firsts, ends = columns.type_ends[:-1][lines], columns.type_ends[1:][lines]
    counts = ends - firsts
    new_ends = np.zeros(len(counts) + 1, np.int32)
    np.cumsum(counts, out=new_ends[1:])
    places = np.arange(new_ends[-1]) + np.repeat(firsts - new_ends[:-1], counts)
    return Columns(
        columns.spans[lines],
        columns.numbers[lines],
        columns.ids[lines],
        columns.has_id[lines],
        columns.types[places],
        new_ends,
    )


def scan_events(text: Bytes, firsts: Integers, ends: Integers, into: Columns) -> npt.NDArray[np.bool_]:
    """Read texts in `text`. Answers which of them are valid events; the validator must look at the others."""
    valid = np.empty(len(firsts), np.bool_)
    _scan_events(text, firsts, ends, np.zeros(len(_NAMES), np.int64), into, valid)
    return valid


@compiled
def _scan_events(
    text: Bytes,
    firsts: Integers,
    ends: Integers,
    follows: Integers,
    into: Columns,
    valid: npt.NDArray[np.bool_],
) -> None:
    for line in range(len(firsts)):
        begun = into.type_ends[line]
        for field in range(len(_LIMITS)):
            into.spans[line, field, 2] = -1
        for field in range(into.numbers.shape[1]):
            into.numbers[line, field] = -1
        into.has_id[line] = False
        into.type_ends[line + 1] = begun
        valid[line] = scan_event(text, firsts[line], ends[line], follows, line, into)
        if not valid[line]:
            into.type_ends[line + 1] = begun


@compiled
def scan_event(text: Bytes, at: int, end: int, follows: Integers, line: int, into: Columns) -> bool:
    """Read one event."""
    seen, field = 0, 0
    at = skip_space(text, at, end)
    if at >= end or text[at] != OPEN_OBJECT:
        return False
    while at < end and (text[at] == COMMA or seen == 0):
        at, field = scan_name(text, skip_space(text, at + 1, end), end, field, follows)
        if at == UNSURE:
            return False
        meant = _FEATURE_ID if field == _DOCUMENT_ID else field
        if seen >> meant & 1:
            return False
        seen |= 1 << meant
        at = skip_space(text, at, end)
        if is_null(text, at, end) and not _REQUIRED >> meant & 1:
            at += len("null")
        else:
            at = scan_field(text, at, end, meant, line, into)
            if at == UNSURE:
                return False
        at = skip_space(text, at, end)
    if at >= end or text[at] != CLOSE_OBJECT or skip_space(text, at + 1, end) != end:
        return False
    return seen & _REQUIRED == _REQUIRED and (
        into.numbers[line, _RESULT_SET_SIZE] != 0 or has_type(into, line, _ZERO_RESULTS)
    )


@compiled
def scan_name(text: Bytes, at: int, end: int, before: int, follows: Integers) -> tuple[int, int]:
    """Behind the name of a field and its colon, and the field. Events of one producer have them in the same order.

    `follows` is that order: by the field before, which one came after it last time.
    """
    likely = follows[before]
    size = _KEY_SIZES[likely]
    if at + size <= end and at + WIDE <= len(text) and same_bytes(text, at, _KEYS, likely * WIDE) >= size:
        return at + size, likely
    first = at + 1
    at = scan_key(text, at, end)
    if at == UNSURE:
        return UNSURE, 0
    after = at - 1
    while text[after] != QUOTE:
        after -= 1
    field = find_word(text, first, after, _FIELDS)
    if field == NOT_FOUND:
        return UNSURE, 0
    follows[before] = field
    return at, field


@compiled
def scan_field(text: Bytes, at: int, end: int, field: int, line: int, into: Columns) -> int:
    """Behind the value of a field."""
    if at >= end:
        return UNSURE
    if field < _FIRST_NUMBER:
        return scan_span(text, at, end, field, line, into.spans)
    if field == _OCCURRED_AT:
        return scan_occurred_at(text, at, end, line, into.numbers)
    if field < _INTERACTION_ID:
        at, into.numbers[line, field - _FIRST_NUMBER] = scan_int32(text, at, end)
        return at
    if field == _INTERACTION_TYPE:
        return scan_types(text, at, end, line, into)
    if text[at] != QUOTE or not scan_id(text, at + 1, end, line, into.ids):
        return UNSURE
    into.has_id[line] = True
    at += 1 + ID_LENGTH
    return at + 1 if at < end and text[at] == QUOTE else UNSURE


@compiled
def scan_span(text: Bytes, at: int, end: int, field: int, line: int, spans: Integers) -> int:
    """Behind a text, an object or the score."""
    first = at
    if field < _DOCUMENT_SCORE:
        if text[at] != QUOTE:
            return UNSURE
        first = at + 1
        after, size = scan_string(text, first, end)
        at = after + 1
    elif field == _DOCUMENT_SCORE:
        after = at = scan_number(text, at, end)
        size = after - first
    else:
        after = at = scan_object(text, at, end) if text[at] == OPEN_OBJECT else UNSURE
        size = after - first
    if after == UNSURE or size > _LIMITS[field]:
        return UNSURE
    spans[line, field, 0], spans[line, field, 1], spans[line, field, 2] = first, after - first, size
    return at


@compiled
def scan_occurred_at(text: Bytes, at: int, end: int, line: int, numbers: Integers) -> int:
    """Behind a time."""
    if text[at] != QUOTE:
        return UNSURE
    first = at + 1
    at, size = scan_string(text, first, end)
    if at == UNSURE or size != at - first:
        return UNSURE
    time_ms = scan_time(text, first, at)
    numbers[line, _OCCURRED_AT - _FIRST_NUMBER] = time_ms
    return UNSURE if time_ms == UNSURE else at + 1


@compiled
def scan_types(text: Bytes, at: int, end: int, line: int, into: Columns) -> int:
    """Behind the list of types."""
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
        into.types[into.type_ends[line] + count] = kind
        into.type_ends[line + 1] += 1
        at = skip_space(text, at + 1, end)
        if at < end and text[at] == CLOSE_ARRAY:
            return at + 1
        if at >= end or text[at] != COMMA:
            return UNSURE
    return UNSURE


@compiled
def has_type(into: Columns, line: int, kind: int) -> bool:
    """Whether a type is among those of a line."""
    for i in range(into.type_ends[line], into.type_ends[line + 1]):
        if into.types[i] == kind:
            return True
    return False
