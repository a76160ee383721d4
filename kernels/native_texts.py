"""Text columns of ClickHouse's Native format (each text after its size as LEB128), written from scanned events."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kernels.compiled import compiled
from kernels.scan_event import Integers
from kernels.scan_json import Bytes
from kernels.scan_texts import copy, copy_span
from kernels.wide import WIDE
from schemas.identity import ID_LENGTH, PREFIX

_MAX_SIZE_BYTES = 3
"""Bytes of the size of a span: each is below 2 MiB."""

_HEX_DIGITS = np.frombuffer(b"0123456789abcdef", np.uint8)
_PREFIX = np.frombuffer(PREFIX.encode(), np.uint8)


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
