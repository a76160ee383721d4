"""Conversion of many JSON numbers to the nearest binary64."""

import numpy as np
import numpy.typing as npt

from kernels.compiled import compiled
from kernels.scan_event import Integers
from kernels.scan_json import Bytes

Floats = npt.NDArray[np.float64]

_MINUS, _DOT, _ZERO, _NINE = ord("-"), ord("."), ord("0"), ord("9")
_LARGEST_MANTISSA = 2**53
_MOST_DIGITS = 18
_EXACT_POWERS = np.array([10.0**power for power in range(23)])
"""Powers of ten that are exact in binary64."""


def read_scores(text: Bytes, spans: Integers) -> Floats:
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
def _read_short(text: Bytes, spans: Integers, values: Floats, unread: npt.NDArray[np.bool_]) -> None:
    """Convert numbers of few digits without an exponent; flag the others.

    A mantissa and a power of ten that are both exact make one rounding, which is the right one (W. D. Clinger, "How to
    read floating point numbers accurately", 1990).
    """
    for row in range(len(spans)):
        if spans[row, 2] < 0:
            continue
        at, end = spans[row, 0], spans[row, 0] + spans[row, 1]
        is_negative = text[at] == _MINUS
        at += is_negative
        mantissa, digits, decimals, dots = 0, 0, 0, 0
        while at < end and digits <= _MOST_DIGITS:
            byte = text[at]
            if _ZERO <= byte <= _NINE:
                mantissa = mantissa * 10 + byte - _ZERO
                digits += 1
                decimals += dots
            elif byte == _DOT:
                dots = 1
            else:
                break
            at += 1
        if at < end or digits > _MOST_DIGITS or mantissa > _LARGEST_MANTISSA:
            unread[row] = True
        else:
            value = float(mantissa) / _EXACT_POWERS[decimals]
            values[row] = -value if is_negative else value
