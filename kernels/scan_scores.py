"""Reading JSON numbers as the nearest of binary64, many at once."""

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
"""Powers of ten that binary64 has exactly."""


def read_scores(text: Bytes, spans: Integers) -> Floats:
    """Read the JSON number in each span (first byte, size, size or -1 for nothing); 0 for nothing."""
    values, unread = np.zeros(len(spans), np.float64), np.zeros(len(spans), np.bool_)
    _read_short(text, spans, values, unread)
    for line in np.flatnonzero(unread).tolist():
        first, size, _ = spans[line].tolist()
        values[line] = float(text[first : first + size].tobytes())
    return values


@compiled
def _read_short(text: Bytes, spans: Integers, values: Floats, unread: npt.NDArray[np.bool_]) -> None:
    """Read those of few digits and no exponent.

    A mantissa and a power of ten that are both exact make one rounding, which is the right one (W. D. Clinger, "How to
    read floating point numbers accurately", 1990).
    """
    for line in range(len(spans)):
        if spans[line, 2] < 0:
            continue
        at, end = spans[line, 0], spans[line, 0] + spans[line, 1]
        is_negative = text[at] == _MINUS
        at += is_negative
        mantissa, digits, behind_dot, dots = 0, 0, 0, 0
        while at < end and digits <= _MOST_DIGITS:
            byte = text[at]
            if _ZERO <= byte <= _NINE:
                mantissa = mantissa * 10 + byte - _ZERO
                digits += 1
                behind_dot += dots
            elif byte == _DOT:
                dots = 1
            else:
                break
            at += 1
        if at < end or digits > _MOST_DIGITS or mantissa > _LARGEST_MANTISSA:
            unread[line] = True
        else:
            value = float(mantissa) / _EXACT_POWERS[behind_dot]
            values[line] = -value if is_negative else value
