"""The scanner: accepts nearly every event in about a microsecond, into columns, and leaves the rest to the validator.

It accepts only events that the validator accepts, and finds the same values. It never rejects: the validator has the
last word, and events that only the validator accepts get their columns from its result (`kernels/validated.py`).
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kernels.scan_event import NUMBER_FIELDS, SHORTEST_TYPE_BYTES, SPAN_FIELDS, Columns, Integers, scan_events, select
from kernels.scan_json import Bytes
from kernels.validated import concatenate, encode_columns
from schemas.rejection import Rejection
from schemas.validator import validate
from schemas.wire import ValidEvent


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
