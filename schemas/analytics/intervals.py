"""95 % intervals as SQL expressions, so that a view, a command and the API show the same numbers.

Each expression is NULL where the counts allow no interval.
"""

from math import isinf

Z = 1.959963984540054
"""Quantile 0.975 of the normal distribution."""
DIGITS = 9
"""Decimals of results. Sums of doubles depend on their order in the last bits, which vary between runs."""

_EXACT_DEGREES = 30
_QUANTILES = (
    "12.706204736,4.30265273,3.182446305,2.776445105,2.570581836,2.446911851,2.364624252,2.306004135,2.262157163,"
    "2.228138852,2.20098516,2.17881283,2.160368656,2.144786688,2.131449546,2.119905299,2.109815578,2.10092204,"
    "2.093024054,2.085963447,2.079613845,2.073873068,2.06865761,2.063898562,2.059538553,2.055529439,2.051830516,"
    "2.048407142,2.045229642,2.042272456"
)
MIN_FOR_MEDIAN = 6
"""Fewest values with a 95 % interval of their median: fewer are all on one side of it in more than 5 % of samples."""


def rounded(expression: str) -> str:
    """Return an expression rounded to DIGITS decimals."""
    return f"round({expression}, {DIGITS})"


def share(hits: str, total: str) -> str:
    """Return `hits / total`; NULL of nothing."""
    return rounded(f"if({total} = 0, NULL, {hits} / {total})")


def wilson(hits: str, total: str) -> tuple[str, str]:
    """Return the ends of the interval of a share (Wilson, 1927, without continuity correction)."""
    middle = f"({hits} + {Z**2 / 2}) / ({total} + {Z**2})"
    half = f"{Z} / ({total} + {Z**2}) * sqrt({hits} * ({total} - {hits}) / {total} + {Z**2 / 4})"
    ends = f"greatest(0, {middle} - {half})", f"least(1, {middle} + {half})"
    low, high = (rounded(f"if({total} = 0, NULL, {end})") for end in ends)
    return low, high


def student_quantile(degrees: str) -> str:
    """Return quantile 0.975 of Student's t, for 1 or more degrees of freedom.

    Exact to six digits: a table up to 30, then the expansion of Abramowitz and Stegun (1964), 26.7.5.
    """
    terms = (
        (Z**3 + Z) / 4,
        (5 * Z**5 + 16 * Z**3 + 3 * Z) / 96,
        (3 * Z**7 + 19 * Z**5 + 17 * Z**3 - 15 * Z) / 384,
    )
    far = " + ".join([str(Z), *(f"{term} / pow({degrees}, {power})" for power, term in enumerate(terms, 1))])
    return f"if({degrees} <= {_EXACT_DEGREES}, [{_QUANTILES}][toUInt32({degrees})], {far})"


def student(mean: str, deviation: str, total: str, *, most: float | None = None) -> tuple[str, str]:
    """Return the ends of the interval of a mean, from the standard deviation of the values (Student, 1908).

    `most`: the values are from 0 to this number, and so are the ends; None: they are not bounded.
    """
    half = f"{student_quantile(f'({total} - 1)')} * {deviation} / sqrt({total})"
    low, high = f"{mean} - {half}", f"{mean} + {half}"
    if most is not None:
        low = f"greatest(0, {low})"
        high = high if isinf(most) else f"least({most}, {high})"
    return rounded(f"if({total} < 2, NULL, {low})"), rounded(f"if({total} < 2, NULL, {high})")


def median(values: str) -> tuple[str, str, str]:
    """Return the median of a sorted array, and the ends of its interval: order statistics by the sign test.

    The ranks are those of the binomial distribution, by its normal approximation rounded outwards.
    """
    total = f"length({values})"
    rank = f"toUInt64(greatest(1, floor(({total} + 1) / 2 - {Z} * sqrt({total}) / 2)))"
    middle = f"({values}[intDiv({total} + 1, 2)] + {values}[intDiv({total}, 2) + 1]) / 2"
    few = f"{total} < {MIN_FOR_MEDIAN}"
    return (
        f"if({total} = 0, NULL, {middle})",
        f"if({few}, NULL, {values}[{rank}])",
        f"if({few}, NULL, {values}[{total} + 1 - {rank}])",
    )
