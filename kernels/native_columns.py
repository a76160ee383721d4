"""Columns of ClickHouse's Native format from scanned events: texts (each after its size as LEB128), and numbers."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kernels.compiled import compiled
from kernels.scan_event import Integers
from kernels.scan_json import MINUS, POINT, Bytes
from kernels.scan_texts import copy, copy_span
from kernels.wide import WIDE
from schemas.identity import ID_LENGTH, PREFIX

_MAX_SIZE_BYTES = 3
"""Bytes of the size of a span: each is below 2 MiB."""

_HEX_DIGITS = np.frombuffer(b"0123456789abcdef", np.uint8)
_PREFIX = np.frombuffer(PREFIX.encode(), np.uint8)

_ZERO, _NINE = ord("0"), ord("9")
_LARGEST_MANTISSA = 2**53
_MOST_DIGITS = 18
_EXACT_POWERS = np.array([10.0**power for power in range(23)])
"""Powers of ten that are exact in binary64."""


class TextColumn(NamedTuple):
    """One field of many events in the Native format. An absent text is encoded as ''."""

    encoded: Bytes
    absent: npt.NDArray[np.bool_]


def encode_texts(text: Bytes, spans: Integers, fields: Sequence[int]) -> list[TextColumn]:
    """Encode some fields of every event, each as one text column, with JSON escapes resolved.

    `text` and `spans` are those of a scan (`Columns.spans`), `fields` are indices of the second axis of `spans`. Each
    text is below 2 MiB. Allocates the texts' size, and 3 bytes per text; the columns share that memory.
    """
    wanted = np.array(fields, np.int64)
    sizes = spans[:, wanted, 2]
    room = np.maximum(sizes, 0).sum(axis=0) + len(spans) * _MAX_SIZE_BYTES + WIDE  # copies run over ends
    starts = np.concatenate([[0], np.cumsum(room)])
    ends, into = starts[:-1].copy(), np.empty(int(starts[-1]), np.uint8)
    _write_spans(text, spans, wanted, ends, into)
    return [TextColumn(into[starts[i] : ends[i]], sizes[:, i] < 0) for i in range(len(fields))]


def encode_ids(raw_ids: Bytes) -> Bytes:
    """Encode ids of 16 bytes each (an array of n x 16) as one text column of ids as they are shown. Needs no slack."""
    into = np.empty(len(raw_ids) * (1 + ID_LENGTH), np.uint8)
    _write_ids(raw_ids, into)
    return into


@compiled
def _write_size(size: int, into: Bytes, at: int) -> int:
    """Write a number as LEB128; return its end."""
    while size >= 0x80:
        into[at] = size & 0x7F | 0x80
        size >>= 7
        at += 1
    into[at] = size
    return at + 1


@compiled
def _write_spans(text: Bytes, spans: Integers, fields: Integers, at: Integers, into: Bytes) -> None:
    """Write fields of every row, each text after its size.

    `at` holds the start of each field's column, and afterwards its end. All fields of a row are written together: a row
    that is visited again later has to be fetched from memory again. WIDE bytes after each column must be within `into`.
    """
    for row in range(len(spans)):
        for i in range(len(fields)):
            span = spans[row, fields[i]]
            if span[2] > 0:
                at[i] = copy_span(text, span, into, _write_size(span[2], into, at[i]))
            else:
                into[at[i]] = 0
                at[i] += 1


@compiled
def _write_ids(raw_ids: Bytes, into: Bytes) -> None:
    """Write ids of 16 bytes each as text of ID_LENGTH bytes after its size."""
    for row in range(len(raw_ids)):
        at = row * (1 + ID_LENGTH)
        into[at] = ID_LENGTH
        at = copy(_PREFIX, 0, len(_PREFIX), into, at + 1)
        for i in range(16):
            into[at + 2 * i] = _HEX_DIGITS[raw_ids[row, i] >> 4]
            into[at + 2 * i + 1] = _HEX_DIGITS[raw_ids[row, i] & 15]


def read_scores(text: Bytes, spans: Integers) -> npt.NDArray[np.float64]:
    """Convert the JSON number in each span to the nearest binary64; 0 where it is absent.

    `spans` (n x 3, contiguous) is one field of `Columns.spans` of a scan, so each holds a valid JSON number. Numbers
    with an exponent or of more than 18 digits are converted by Python, one by one.
    """
    values, unread = np.zeros(len(spans), np.float64), np.zeros(len(spans), np.bool_)
    _read_short(text, spans, values, unread)
    for row in np.flatnonzero(unread).tolist():
        first, size, _ = spans[row].tolist()
        values[row] = float(text[first : first + size].tobytes())
    return values


@compiled
def _read_short(text: Bytes, spans: Integers, values: npt.NDArray[np.float64], unread: npt.NDArray[np.bool_]) -> None:
    """Convert numbers of few digits without an exponent; flag the others.

    A mantissa and a power of ten that are both exact make one rounding, which is the right one (W. D. Clinger, "How to
    read floating point numbers accurately", 1990).
    """
    for row in range(len(spans)):
        if spans[row, 2] < 0:
            continue
        at, end = spans[row, 0], spans[row, 0] + spans[row, 1]
        is_negative = text[at] == MINUS
        at += is_negative
        mantissa, digits, decimals, dots = 0, 0, 0, 0
        while at < end and digits <= _MOST_DIGITS:
            byte = text[at]
            if _ZERO <= byte <= _NINE:
                mantissa = mantissa * 10 + byte - _ZERO
                digits += 1
                decimals += dots
            elif byte == POINT:
                dots = 1
            else:
                break
            at += 1
        if at < end or digits > _MOST_DIGITS or mantissa > _LARGEST_MANTISSA:
            unread[row] = True
        else:
            value = float(mantissa) / _EXACT_POWERS[decimals]
            values[row] = -value if is_negative else value
