"""Numbers of one column of a table, with the same number of digits after the point."""

import math
from collections.abc import Callable, Iterable

from console.text import NONE, number

MIN_DECIMALS = 3
"""Digits after the point that a column may have whatever its largest number is."""
MAX_DECIMALS = 9
SIGNIFICANT = 3
SMALLEST_P = 1e-4
NumberFormat = Callable[[float | None], str]


def even_numbers(values: Iterable[float | None]) -> NumberFormat:
    """Return a format for numbers of one column: as many digits after the point as the one that needs most."""
    known = _known(values)
    largest = max((abs(each) for each in known), default=0.0)
    most = MIN_DECIMALS
    if 0 < largest < 1:
        most = min(MAX_DECIMALS, max(MIN_DECIMALS, SIGNIFICANT - 1 - math.floor(math.log10(largest))))
    needed = max((_decimals(number(each)) for each in known), default=0)
    return _fixed(min(needed, most))


def even_shares(values: Iterable[float | None]) -> NumberFormat:
    """Return a format for shares of one column as percentages: two digits if one would round to 100, else one."""
    digits = 2 if any(99.95 <= abs(each) * 100 < 100 for each in _known(values)) else 1  # noqa: PLR2004
    show = _fixed(digits)
    return lambda value: NONE if value is None else f"{show(value * 100)} %"


def p_value(value: float | None) -> str:
    """Return a p-value with four digits after the point."""
    if value is None:
        return NONE
    return f"<{SMALLEST_P:.4f}" if value < SMALLEST_P else f"{value:.4f}"


def _known(values: Iterable[float | None]) -> list[float]:
    return [each for each in values if each is not None and math.isfinite(each)]


def _decimals(text: str) -> int:
    """Return the digits after the point of a number's text; of one with an exponent, as many as can be shown."""
    return MAX_DECIMALS if "e" in text else len(text.partition(".")[2])


def _fixed(digits: int) -> NumberFormat:
    def show(value: float | None) -> str:
        if value is None or not math.isfinite(value):
            return NONE
        text = f"{value:,.{digits}f}"
        return text.removeprefix("-") if float(text.replace(",", "")) == 0 else text

    return show
