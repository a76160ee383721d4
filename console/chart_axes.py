"""Axes of charts: ticks at round values, and positions in the drawing."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

MAX_TICKS = 5
_LEAST_SPAN = 1e-9
_MINUTE_MS, _HOUR_MS, _DAY_MS = 60_000, 3_600_000, 86_400_000
_TIME_STEPS_MS = (
    *(each * 1_000 for each in (1, 5, 15, 30)),
    *(each * _MINUTE_MS for each in (1, 2, 5, 10, 15, 30)),
    *(each * _HOUR_MS for each in (1, 2, 3, 6, 12)),
    *(each * _DAY_MS for each in (1, 2, 7, 14, 30, 90, 365)),
)


class Scale(NamedTuple):
    """Linear scale from values to positions in the drawing."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """Return the position of a value, rounded to a tenth."""
        span = self.high - self.low
        part = (value - self.low) / span if span else 0.5
        return round(self.start + part * (self.end - self.start), 1)


def round_ticks(low: float, high: float, most: int = MAX_TICKS) -> list[float]:
    """Return values of 1, 2 or 5 times a power of ten, evenly spaced, that cover `low` to `high`."""
    if high - low <= _LEAST_SPAN * max(abs(low), abs(high), 1e-3):  # too close together for doubles
        high = low + max(abs(low), 1.0)
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(each * power for each in (1, 2, 5, 10) if each * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    digits = max(0, 1 - math.floor(math.log10(step)))
    return [round(index * step, digits) for index in range(first, last + 1)]


def time_ticks(low_ms: float, high_ms: float, most: int = MAX_TICKS + 1, *, is_day: bool = False) -> list[float]:
    """Return times in ms, at whole steps of a clock or calendar in UTC, within `low_ms` to `high_ms`.

    With `is_day` no step is shorter than a day. A range of one time has that time alone.
    """
    if high_ms <= low_ms:
        return [low_ms]
    span = high_ms - low_ms
    steps = [each for each in _TIME_STEPS_MS if each >= (_DAY_MS if is_day else 0)]
    step = next((each for each in steps if span / each <= most), math.ceil(span / most))
    first = math.ceil(low_ms / step)
    return [index * step for index in range(first, math.floor(high_ms / step) + 1)]


def time_label(ms: float, span_ms: float, *, is_day: bool = False) -> str:
    """Return a time as short as the span of its axis allows, in UTC; with its date if it is alone."""
    moment = datetime.fromtimestamp(ms / 1000, UTC)
    if is_day or span_ms > 2 * _DAY_MS:
        return f"{moment:%d %b}" if span_ms <= 400 * _DAY_MS else f"{moment:%b %Y}"
    if span_ms <= 0:
        return f"{moment:%d %b %H:%M}"
    return f"{moment:%H:%M:%S}" if span_ms <= 10 * _MINUTE_MS else f"{moment:%H:%M}"


def bounds(values: Sequence[float | None], *, with_zero: bool) -> tuple[float, float]:
    """Return the smallest and the largest known value; 0 to 1 without any."""
    known = [each for each in values if each is not None and math.isfinite(each)]
    if not known:
        return 0.0, 1.0
    low, high = min(known), max(known)
    return (min(low, 0.0), max(high, 0.0)) if with_zero else (low, high)
