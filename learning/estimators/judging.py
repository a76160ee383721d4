"""Judgments from counts: how good a document is for a query, estimated from impressions and clicks.

An item is a pair of query and document. Counts come as cells: one for each (item, segment, position). Every function
returns an estimate for each item, with a 95 % interval where the method has one.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special

from learning.estimators.curve import CLIP
from schemas.analytics.intervals import Z
from schemas.rewards import GRADE_THRESHOLDS, HIGHEST_GRADE

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

TAIL = 0.025
"""Probability of each side of an interval."""
PRIOR_STRENGTH = 10.0
"""Default weight of the prior of `click_through`, in impressions."""
MIN_PROPENSITY = 1e-6
"""Smallest propensity that is used: a click at a position that is never examined says nothing about the model."""


class JudgedCells(NamedTuple):
    """Counts by (item, segment, position), arrays of one length. All values are 0 or larger."""

    item: Integers
    """Number of the item, from 0 to `items` - 1."""
    segment: Integers
    position: Integers
    """0-based."""
    impressions: Integers
    clicks: Integers
    """Results that were clicked, at most `impressions`."""
    items: int

    def totals(self, values: npt.NDArray[np.generic]) -> Floats:
        """Return the sums of a value of cells for each item, added in the order of the cells."""
        return np.bincount(self.item, values.astype(np.float64), self.items).astype(np.float64)


class ItemEstimates(NamedTuple):
    """Estimates by item, arrays of `items` values. Those of an item that is not known are 0."""

    value: Floats
    low: Floats | None
    high: Floats | None
    """Ends of the 95 % interval, which contains `value`. None: the method has no interval."""
    effective_n: Floats
    """Number of observations that the value is worth, in a unit of the method."""
    impressions: Integers
    clicks: Integers
    """Counts that the value was computed from."""
    is_known: Flags
    """Whether the counts determine a value."""


def click_through(cells: JudgedCells, prior_strength: float = PRIOR_STRENGTH) -> ItemEstimates:
    """Estimate click-through with a Beta prior: (clicks + m s) / (impressions + s).

    m: click-through of all cells, (clicks + 1/2) / (impressions + 1), which is never 0 or 1. s: `prior_strength` > 0,
    in impressions. The interval has quantiles of the posterior Beta(clicks + m s, impressions - clicks + (1 - m) s),
    extended to its mean where that is outside, as with m s far below 1 (Gelman et al., "Bayesian Data Analysis", 2.4).
    Effective n: impressions. From 0 to 1.

    It lies about relevance where positions differ: a document that is always shown first gets the clicks of the first
    position.
    """
    shown, clicked = cells.totals(cells.impressions), cells.totals(cells.clicks)
    mean = (float(cells.clicks.sum()) + 0.5) / (float(cells.impressions.sum()) + 1)
    alpha, beta = clicked + mean * prior_strength, shown - clicked + (1 - mean) * prior_strength
    value = alpha / (alpha + beta)
    low, high = special.betaincinv(alpha, beta, TAIL), special.betaincinv(alpha, beta, 1 - TAIL)
    return _estimates(value, low, high, shown, shown, clicked, shown > 0)


def clicks_over_expected(cells: JudgedCells) -> ItemEstimates:
    """Estimate clicks over expected clicks (Zhang & Jones, 2007, "Comparing click logs and editorial labels").

    Expected: sum over the impressions of the mean click-through of their position in their segment. 1 is as good as
    the average result at these positions; not bounded above. The interval is that of Garwood (1936) for the Poisson
    mean of the clicks, divided by the expected clicks as if these were exact. Effective n: expected clicks.

    It lies where positions show results of different quality: a position that always has good results expects many
    clicks. A document alone at its position has 1 by definition. Not known: items shown only at positions without
    any click.
    """
    _, group = np.unique(np.stack([cells.segment, cells.position]), axis=1, return_inverse=True)
    group = group.reshape(-1)
    shown_at = np.bincount(group, cells.impressions.astype(np.float64))
    clicked_at = np.bincount(group, cells.clicks.astype(np.float64))
    rate = clicked_at / np.maximum(shown_at, 1)
    shown, clicked = cells.totals(cells.impressions), cells.totals(cells.clicks)
    expected = cells.totals(cells.impressions * rate[group])
    is_known = expected > 0
    divisor = np.where(is_known, expected, 1)
    low = np.where(clicked > 0, special.gammaincinv(np.maximum(clicked, 1), TAIL), 0) / divisor
    high = special.gammaincinv(clicked + 1, 1 - TAIL) / divisor
    return _estimates(clicked / divisor, low, high, expected, shown, clicked, is_known)


def propensity_weighted(cells: JudgedCells, propensity: Floats, clip: float = CLIP) -> ItemEstimates:
    """Estimate attraction: the probability of a click on a result at the reference position of the propensities.

    `propensity`: of each cell, relative to the reference position; 0 where it is not known. Cells with less than
    MIN_PROPENSITY are left out of all counts. With w = min(1 / propensity, clip):

        value = sum(w clicks) / sum(w propensity impressions)

    This is inverse propensity scoring (Joachims, Swaminathan & Schnabel, 2017, "Unbiased learning-to-rank with biased
    feedback"), clipped and self-normalised (Swaminathan & Joachims, 2015, "The self-normalized estimator for
    counterfactual learning"). Because the divisor has the same weights, the value is unbiased under the position-based
    model for any clip >= 1; a smaller clip only reduces its variance. It may be above 1 by chance.

    Effective n: (sum(w propensity))^2 / sum(w^2 propensity) over impressions, in examined impressions. Interval: that
    of Wilson (1927) for the clicks of impressions with the mean propensity t = sum(w^2 propensity^2) /
    sum(w^2 propensity), of which there are effective n / t, divided by t; cut at 1 and extended to the value. It is
    exact as Wilson's where all propensities of an item are equal, else approximate: it has the right variance, but
    assumes symmetry. It leaves out the error of the propensities, and lies where examination depends on more than
    segment and position.
    """
    used = propensity >= MIN_PROPENSITY
    theta, shown_in, clicked_in = propensity[used], cells.impressions[used], cells.clicks[used]
    left = JudgedCells(cells.item[used], cells.segment[used], cells.position[used], shown_in, clicked_in, cells.items)
    weight = 1 / np.maximum(theta, 1 / clip)
    examined = left.totals(weight * theta * shown_in)
    squared = left.totals(weight**2 * theta * shown_in)
    shown, clicked = left.totals(shown_in), left.totals(clicked_in)
    is_known = shown > 0
    value = left.totals(weight * clicked_in) / np.where(is_known, examined, 1)
    effective_n = examined**2 / np.where(is_known, squared, 1)
    mean = np.where(is_known, left.totals(weight**2 * theta**2 * shown_in) / np.where(is_known, squared, 1), 1)
    low, high = _wilson(np.minimum(mean * value, 1), effective_n / mean)
    return _estimates(
        value, np.minimum(low / mean, 1), np.minimum(high / mean, 1), effective_n, shown, clicked, is_known
    )


def graded(cells: JudgedCells, highest_reward: Floats, thresholds: Sequence[float] = GRADE_THRESHOLDS) -> ItemEstimates:
    """Grade items by the highest reward of an interaction: 0 for none above 0, else 1 + thresholds that it reaches.

    `highest_reward`: of each item. `thresholds`: lowest rewards of the grades above 1, ascending. A highest value has
    no interval. It lies because it grows with the impressions: items that are shown often or high have more chances.
    Effective n: impressions.
    """
    shown, clicked = cells.totals(cells.impressions), cells.totals(cells.clicks)
    reached = np.searchsorted(np.asarray(thresholds, np.float64), highest_reward, side="right")
    grade = np.where(highest_reward > 0, 1 + reached, 0).astype(np.float64)
    return _estimates(grade, None, None, shown, shown, clicked, shown > 0)


def _wilson(share: Floats, trials: Floats) -> tuple[Floats, Floats]:
    """Return the interval of Wilson (1927) for a share of a number of trials, which need not be whole."""
    trials = np.maximum(trials, np.finfo(np.float64).tiny)
    square = Z * Z
    center = (share * trials + square / 2) / (trials + square)
    half = Z * np.sqrt(share * (1 - share) * trials + square / 4) / (trials + square)
    return np.maximum(center - half, 0), center + half


def _estimates(
    value: Floats,
    low: Floats | None,
    high: Floats | None,
    effective_n: Floats,
    shown: Floats,
    clicked: Floats,
    is_known: Flags,
) -> ItemEstimates:
    """Return estimates with intervals that contain their values, and zeros where a value is not known."""

    def known(values: Floats) -> Floats:
        return np.where(is_known, values, 0.0)

    return ItemEstimates(
        known(value),
        None if low is None else known(np.minimum(low, value)),
        None if high is None else known(np.maximum(high, value)),
        known(effective_n),
        shown.astype(np.int64),
        clicked.astype(np.int64),
        is_known,
    )


def grades_of(query: Integers, value: Floats, highest_grade: int = HIGHEST_GRADE) -> Integers:
    """Return whole grades for rates: the value over the highest one of its query, times `highest_grade`, rounded.

    `query`: number of each item's query. Halves are rounded up. A query whose values are all 0 has grades of 0.
    """
    highest = np.zeros(int(query.max(initial=-1)) + 1)
    np.maximum.at(highest, query, value)
    of_query = highest[query]
    share = value / np.where(of_query > 0, of_query, 1)
    return np.floor(highest_grade * share + 0.5).astype(np.int64)
