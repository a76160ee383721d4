"""The scanner: says yes to nearly every event in about a microsecond, into columns, and leaves the rest to the judge.

It may say yes only where the judge says yes, and must then find the same values. It never says no. What the judge says
yes to is written plainly and scanned again: every event comes out of the scanner.
"""

from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import structs

from schemas.event_time import from_epoch_ms, iso_ms
from schemas.judge import judge
from schemas.rejection import Rejection
from schemas.scan_event import NUMBER_FIELDS, SHORTEST_TYPE_BYTES, SPAN_FIELDS, Columns, Integers, scan_events, select
from schemas.scan_json import Bytes
from schemas.wire import Judged


class Scanned(NamedTuple):
    """Valid events, one line each in every column, and what became of the others."""

    text: Bytes
    """Spans are places in it."""
    lines: npt.NDArray[np.int64]
    """Which of the values each line is."""
    columns: Columns
    rejections: dict[int, Rejection]
    """Of the values that have no line, by their place among all."""


def validate_all(text: Bytes, values: Integers) -> Scanned:
    """Decide about record values: by line, where in `text` one begins, and its size; -1 for null."""
    firsts, ends = values[:, 0].copy(), values[:, 0] + np.maximum(values[:, 1], 0)
    nothing = np.zeros(len(values), np.bool_)
    columns, valid = scan(text, firsts, ends, nothing)
    if valid.all():
        return Scanned(text, np.arange(len(values)), columns, {})
    verdicts = {
        at: judge(None if values[at, 1] < 0 else text[firsts[at] : ends[at]].tobytes())
        for at in np.flatnonzero(~valid).tolist()
    }
    rejections = {at: verdict for at, verdict in verdicts.items() if isinstance(verdict, Rejection)}
    written = {at: _written(verdict) for at, verdict in verdicts.items() if isinstance(verdict, Judged)}
    if written:
        trusted, behind = nothing.copy(), len(text)
        for at, value in written.items():
            trusted[at], firsts[at], ends[at] = True, behind, behind + len(value)
            behind += len(value)
        text = np.concatenate([text, np.frombuffer(b"".join(written.values()), np.uint8)])
        text.flags.writeable = False  # as all texts are: for another kind of array everything is compiled once more
        columns, valid = scan(text, firsts, ends, trusted)
        if np.count_nonzero(~valid) != len(rejections):
            raise AssertionError("the scanner does not take what the judge wrote")
    lines = np.flatnonzero(valid)
    return Scanned(text, lines, select(columns, lines), rejections)


def scan(
    text: Bytes, firsts: Integers, ends: Integers, trusted: npt.NDArray[np.bool_]
) -> tuple[Columns, npt.NDArray[np.bool_]]:
    """Read values into columns, and say which of them are surely valid. What is `trusted` the judge has written."""
    columns = _columns(len(firsts), int((ends - firsts).sum()))
    return columns, scan_events(text, firsts, ends, trusted, columns)


def _columns(lines: int, text_bytes: int) -> Columns:
    return Columns(
        spans=np.empty((lines, len(SPAN_FIELDS), 3), np.int64),
        numbers=np.empty((lines, len(NUMBER_FIELDS)), np.int64),
        ids=np.empty((lines, 16), np.uint8),
        has_id=np.empty(lines, np.bool_),
        types=np.empty(text_bytes // SHORTEST_TYPE_BYTES + 1, np.int8),
        type_ends=np.zeros(lines + 1, np.int32),
    )


def _written(judged: Judged) -> bytes:
    """An event as the scanner reads it."""
    event, occurred_ms = judged
    occurred_at = None if occurred_ms is None else iso_ms(from_epoch_ms(occurred_ms))
    return msgspec.json.encode(structs.replace(event, occurred_at=occurred_at))
