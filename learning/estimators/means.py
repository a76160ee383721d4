"""Means over queries with their intervals."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from scipy.special import stdtr, stdtrit

LEVEL = 0.95
"""Level of intervals."""


class MeanEstimate(NamedTuple):
    """Mean of a sample with the ends of its 95 % interval; None where the sample has one value."""

    queries: int
    mean: float
    low: float | None
    high: float | None
    error: float | None
    """Standard error of the mean."""

    def share_below(self, bound: float) -> float:
        """Return the one-sided p-value against a true mean of `bound` or more (Student). 1 with one value."""
        if self.error is None:
            return 1.0
        if self.error == 0:
            return 0.0 if self.mean < bound else 1.0
        return float(stdtr(self.queries - 1, (self.mean - bound) / self.error))


def mean_of(values: Sequence[float]) -> MeanEstimate:
    """Return the mean of independent values, one for each query, with its 95 % interval (Student, 1908).

    mean -+ t(0.975, n - 1) s / sqrt(n), with s the standard deviation of n values. Sums are exactly rounded, so the
    order of the values does not matter. For differences of retrieval metrics the paired t-test keeps its error rate
    (Urbano, Lima and Hanjalic, Statistical Significance Testing in Information Retrieval, 2019). It lies for few values
    of a skewed metric, and where all values are equal: the interval then has no width, whatever other queries would
    give. Raises ValueError without values.
    """
    count = len(values)
    if not count:
        raise ValueError("a mean needs at least one value")
    mean = math.fsum(values) / count
    if min(values) == max(values):
        mean = values[0]
    if count == 1:
        return MeanEstimate(count, mean, None, None, None)
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    error = math.sqrt(variance / count)
    half = float(stdtrit(count - 1, (1 + LEVEL) / 2)) * error
    return MeanEstimate(count, mean, mean - half, mean + half, error)
