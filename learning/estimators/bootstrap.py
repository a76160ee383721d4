"""Bootstrap over executions, with 95 % intervals of logarithms.

Executions are in random groups, of which as many are drawn with replacement for each replicate (Efron, 1979,
"Bootstrap Methods: Another Look at the Jackknife"): events of an execution depend on each other, those of different
groups do not. The interval is log value -/+ 1.96 standard errors: where an estimate is biased by small counts, its
replicates are more so, and their percentiles held the truth of simulated logs less often.

Where it lies: executions of one user are taken as independent, so that few, heavy users make it too narrow. It has no
part for bias.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from learning.estimators.cells import Floats, Mask

REPLICATES = 200
"""Default number of replicates."""
_SEED = 2016
_Z = 1.959963984540054
_FEWEST_DETERMINED = 0.95
"""Smallest share of the replicates in which a value must be determined to have an interval."""

Estimate = Callable[[Floats, Floats | None], Floats]
"""Logarithms of values, NaN where the counts do not determine them, from the weights of the groups and a start."""


class Bootstrapped(NamedTuple):
    """Logarithms of values and the ends of their intervals. NaN: not determined."""

    values: Floats
    low: Floats
    high: Floats
    undetermined: Floats
    """Share of the replicates in which the value was not determined."""

    @property
    def has_interval(self) -> Mask:
        """Whether a value has an interval."""
        return np.isfinite(self.low)


def bootstrapped(
    estimate: Estimate, groups: int, replicates: int = REPLICATES, tick: Callable[[], object] | None = None
) -> Bootstrapped:
    """Estimate values relative to the first, with intervals. The same counts give the same result.

    `tick` is called after each replicate.
    """
    start = estimate(np.ones(groups), None)
    values = start - start[0]
    logs = np.empty((replicates, len(values)))
    for number, weights in enumerate(_weights(groups, replicates)):
        found = estimate(weights, start)
        logs[number] = found - found[0]
        if tick:
            tick()
    known = np.isfinite(logs)
    count = known.sum(axis=0)
    error = _deviation(np.where(known, logs, 0.0), known)
    is_enough = np.isfinite(values) & (count >= max(2, _FEWEST_DETERMINED * replicates))
    half = np.where(is_enough, _Z * error, np.nan)
    return Bootstrapped(values, values - half, values + half, 1 - count / replicates)


def _deviation(logs: Floats, known: Mask) -> Floats:
    """Return the standard deviation of the known entries of each column."""
    count = known.sum(axis=0)
    mean = logs.sum(axis=0) / np.maximum(count, 1)
    squares = (np.where(known, logs - mean, 0.0) ** 2).sum(axis=0)
    return np.asarray(np.sqrt(squares / np.maximum(count - 1, 1)))


def _weights(groups: int, replicates: int) -> Iterator[Floats]:
    generator = np.random.default_rng(_SEED)
    share = np.full(groups, 1 / groups)
    for _ in range(replicates):
        yield generator.multinomial(groups, share).astype(np.float64)
