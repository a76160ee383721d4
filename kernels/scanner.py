"""The scanner: accepts nearly every event in about a microsecond, into columns, and leaves the rest to the validator.

It may accept only what the validator accepts, and must then find the same values. It never rejects: the validator's
answer counts, and what the validator accepts gets its columns from there (`kernels/validated.py`).
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kernels.scan_event import NUMBER_FIELDS, SHORTEST_TYPE_BYTES, SPAN_FIELDS, Columns, Integers, scan_events, select
from kernels.scan_json import Bytes
from kernels.validated import columns_of, joined
from schemas.rejection import Rejection
from schemas.validator import validate
from schemas.wire import ValidEvent


class Scanned(NamedTuple):
    """Valid events, one line each in every column, and what became of the others."""

    text: Bytes
    """Spans are places in it."""
    lines: npt.NDArray[np.int64]
    """Which of the values each line is."""
    columns: Columns
    rejections: dict[int, Rejection]
    """Rejections of values that have no line, by their place among all."""


def validate_all(text: Bytes, values: Integers) -> Scanned:
    """Decide about record values: by line, where in `text` one begins, and its size; -1 for null."""
    firsts, ends = values[:, 0].copy(), values[:, 0] + np.maximum(values[:, 1], 0)
    columns, valid = scan(text, firsts, ends)
    if valid.all():
        return Scanned(text, np.arange(len(values)), columns, {})
    validated, rejections = dict[int, ValidEvent](), dict[int, Rejection]()
    for at in np.flatnonzero(~valid).tolist():
        verdict = validate(None if values[at, 1] < 0 else text[firsts[at] : ends[at]].tobytes())
        if isinstance(verdict, ValidEvent):
            validated[at] = verdict
        else:
            rejections[at] = verdict
    lines = np.flatnonzero(valid)
    columns = select(columns, lines)
    if validated:
        written, others = columns_of([*validated.values()], len(text))
        text = np.concatenate([text, np.frombuffer(written, np.uint8)])
        text.flags.writeable = False  # as all texts are: for another kind of array everything is compiled once more
        lines = np.concatenate([lines, np.array([*validated])])
        order = np.argsort(lines)
        lines, columns = lines[order], select(joined(columns, others), order)
    return Scanned(text, lines, columns, rejections)


def scan(text: Bytes, firsts: Integers, ends: Integers) -> tuple[Columns, npt.NDArray[np.bool_]]:
    """Read values into columns, and say which of them are surely valid."""
    columns = _columns(len(firsts), int((ends - firsts).sum()))
    return columns, scan_events(text, firsts, ends, columns)


def _columns(lines: int, text_bytes: int) -> Columns:
    return Columns(
        spans=np.empty((lines, len(SPAN_FIELDS), 3), np.int64),
        numbers=np.empty((lines, len(NUMBER_FIELDS)), np.int64),
        ids=np.empty((lines, 16), np.uint8),
        has_id=np.empty(lines, np.bool_),
        types=np.empty(text_bytes // SHORTEST_TYPE_BYTES + 1, np.int8),
        type_ends=np.zeros(lines + 1, np.int32),
    )
