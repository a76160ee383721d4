"""Position-based model of clicks, fitted to counts by (item, position).

A result is clicked if its position is examined and its item attracts, independently (Craswell et al., 2008, "An
experimental comparison of click position-bias models"):

    P(click | item i, position k) = p = theta_k * gamma_i,    theta and gamma at most 1

The estimate is the maximum of the binomial likelihood of c clicks in n impressions of each cell (i, k): the fixed
point of the EM algorithm of Wang et al., 2018, "Position Bias Estimation for Unbiased Learning to Rank in Personal
Search", and Chuklin et al., 2015, "Click Models for Web Search", section 4.1, with a gamma of each item in place of a
regression. Steps of EM shrink with the click-through rate, so the same maximum is found by scoring the logarithms,
gamma and theta in turn:

    log theta_k <- log theta_k + sum over i of [c - (n - c) * p / (1 - p)] / sum over i of [n * p / (1 - p)]

and extrapolating the steps by SQUAREM, scheme S3 (Varadhan and Roland, 2008, "Simple and Globally Convergent Methods
for Accelerating the Convergence of Any EM Algorithm"). An extrapolation that lowers the likelihood is dropped.

Only products are identified: values are relative to a reference. An item shown at one position says nothing about
theta, nor does one without a click. Where it lies: clicks that depend on the other results (cascade, fatigue);
attraction that differs between positions, such as an order that follows the user's taste; items with few impressions
each, whose gammas are fitted to noise: low positions then seem to be examined too often. The estimator of `harvesting`
has no gamma of single items.
"""

import math
from collections.abc import Callable

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from learning.estimators.cells import Floats, ItemCells, Mask, seen_elsewhere

TOLERANCE = 1e-6
"""Largest estimated error of a log propensity at which the iteration ends."""
MAX_CYCLES = 500
"""Maximum cycles of three steps. After them the last estimate is taken."""
_FIRST_CYCLES, _FIRST_GAMMAS = 20, 3
"""Steps that find parameters to start from: of the approximation for rare clicks, then of gamma alone."""
_SETTLED_CYCLES = 2
"""Successive cycles whose estimated error must be small: the first one may be, by a poor estimate."""
_LARGEST = 1 - 1e-9
_LOG_LARGEST = float(np.log(_LARGEST))
"""Largest gamma and product: the likelihood of a result that was not clicked is 0 at 1."""
_LONGEST_STEP, _LONGEST_JUMP = 1.0, 5.0
"""Largest change of a logarithm in a step and in an extrapolation."""
_MOST_OBSERVED = 32.0
"""Largest observed information that is used, as a multiple of the expected one."""


def log_propensities(cells: ItemCells, impressions: Floats, clicks: Floats, start: Floats | None = None) -> Floats:
    """Return log theta of each position, up to one constant, or NaN where the counts do not determine it.

    `start`: log theta of similar counts, from which the iteration starts. Counts need not be whole.
    """
    found = np.full(cells.positions, np.nan)
    known = determined(cells, impressions, clicks)
    found[0] = 0.0
    kept = known[cells.position]
    shown = np.where(kept, impressions, 0.0)
    kept &= seen_elsewhere(cells, shown) & (cells.per_item(np.where(kept, clicks, 0.0))[cells.item] > 0)
    if kept.any():
        positions = np.unique(cells.position[kept])
        fit = _Fit(cells.compressed(kept), impressions[kept], clicks[kept])
        found[positions] = fit.run(None if start is None else start[positions])
    return found


def determined(cells: ItemCells, impressions: Floats, clicks: Floats) -> Mask:
    """Return, for each position, whether the likelihood has a finite maximum for its propensity; the first one has.

    Theta of a set of positions could shrink without end, unless some item clicked in the set was also shown outside of
    it. So the positions that compare with the first are its strongly connected component in the graph with an edge from
    each position with a click on an item to each other position at which that item was shown.
    """
    shape = cells.items, cells.positions
    at = cells.item, cells.position
    clicked = sparse.coo_array(((clicks > 0).astype(np.float64), at), shape=shape).tocsr()
    shown = sparse.coo_array(((impressions > 0).astype(np.float64), at), shape=shape).tocsr()
    for matrix in (clicked, shown):
        matrix.eliminate_zeros()
    _, label = csgraph.connected_components(clicked.T @ shown, directed=True, connection="strong")
    return np.asarray(label == label[0])


class _Fit:
    """Fit of cells that determine all their propensities. Parameters: log theta, then log gamma."""

    def __init__(self, cells: ItemCells, impressions: Floats, clicks: Floats) -> None:
        self._cells = cells
        self._shown, self._clicked = impressions, clicks
        self._skipped = np.maximum(impressions - clicks, 0.0)
        self._item_clicked, self._position_clicked = cells.per_item(clicks), cells.per_position(clicks)

    def run(self, start: Floats | None) -> Floats:
        """Return log theta."""
        now = self._first(start)
        likelihood = self._log_likelihood(now)
        settled = 0
        for _ in range(MAX_CYCLES):
            once = self._step(now)
            twice = self._step(once)
            settled = settled + 1 if self._error(now, once, twice) <= TOLERANCE else 0
            if settled == _SETTLED_CYCLES:
                return twice[: self._cells.positions]
            now, likelihood = self._accelerated(now, once, twice, likelihood)
        return now[: self._cells.positions]

    def _first(self, start: Floats | None) -> Floats:
        """Return parameters to start from: theta of rare clicks, unless it is given, and the best gamma for it."""
        if start is not None:
            theta = np.exp(start - start.max())
        else:
            theta = np.ones(self._cells.positions)
            for _ in range(_FIRST_CYCLES):
                gamma = self._item_clicked / self._cells.per_item(self._shown * theta[self._cells.position])
                theta = self._position_clicked / self._cells.per_position(self._shown * gamma[self._cells.item])
                theta /= theta.max()
        gamma = self._item_clicked / self._cells.per_item(self._shown * theta[self._cells.position])
        log_theta, log_gamma = np.log(theta), np.log(np.minimum(gamma, _LARGEST))
        for _ in range(_FIRST_GAMMAS):
            log_gamma = self._scored_gamma(log_theta, log_gamma)
        return np.concatenate([log_theta, log_gamma])

    def _increase(self, log_theta: Floats, log_gamma: Floats, total: Callable[[Floats], Floats]) -> Floats:
        """Return the scoring step of the parameters over whose cells `total` sums.

        Sums of expected information are stable far from the maximum, those of observed information near it.
        """
        product = np.minimum(np.exp(log_theta[self._cells.position] + log_gamma[self._cells.item]), _LARGEST)
        odds = product / (1 - product)
        missed = self._skipped * odds
        score = total(self._clicked - missed)
        expected, observed = total(self._shown * odds), total(missed / (1 - product))
        information = np.clip(observed, expected, _MOST_OBSERVED * expected)
        return np.clip(score / information, -_LONGEST_STEP, _LONGEST_STEP)

    def _scored_gamma(self, log_theta: Floats, log_gamma: Floats) -> Floats:
        return np.minimum(log_gamma + self._increase(log_theta, log_gamma, self._cells.per_item), _LOG_LARGEST)

    def _step(self, parameters: Floats) -> Floats:
        """Return the parameters after one step of gamma and one of theta."""
        log_theta, log_gamma = np.split(parameters, [self._cells.positions])
        log_gamma = self._scored_gamma(log_theta, log_gamma)
        log_theta = log_theta + self._increase(log_theta, log_gamma, self._cells.per_position)
        return self._scaled(log_theta, log_gamma)

    def _scaled(self, log_theta: Floats, log_gamma: Floats) -> Floats:
        """Return the parameters within their bounds, with a largest theta of 1."""
        log_theta = np.minimum(log_theta, 0.0)
        most = log_theta.max()
        return np.concatenate([log_theta - most, np.minimum(log_gamma + most, _LOG_LARGEST)])

    def _log_likelihood(self, parameters: Floats) -> float:
        log_theta, log_gamma = np.split(parameters, [self._cells.positions])
        product = log_theta[self._cells.position] + log_gamma[self._cells.item]
        missed = np.log1p(-np.minimum(np.exp(product), _LARGEST))
        return float(np.sum(self._clicked * product + self._skipped * missed))

    def _error(self, now: Floats, once: Floats, twice: Floats) -> float:
        """Estimate the error of log theta relative to the first: the rest of a geometric series of steps."""
        first, second = (self._change(once - now), self._change(twice - once))
        if second == 0.0 or first <= second:
            return second if second <= TOLERANCE / 10 else np.inf
        return second * second / (first - second)

    def _change(self, step: Floats) -> float:
        of_theta = step[: self._cells.positions]
        return float(np.abs(of_theta - of_theta[0]).max())

    def _accelerated(self, now: Floats, once: Floats, twice: Floats, likelihood: float) -> tuple[Floats, float]:
        """Return the extrapolated parameters, or those after two steps, and their likelihood."""
        step = once - now
        curvature = twice - once - step
        bend = float(np.sum(curvature**2))
        length = math.sqrt(float(np.sum(step**2)) / bend) if bend else 1.0
        if length > 1:
            jump = np.clip(2 * length * step + length**2 * curvature, -_LONGEST_JUMP, _LONGEST_JUMP)
            ahead = now + jump
            ahead = self._step(self._scaled(*np.split(ahead, [self._cells.positions])))
            found = self._log_likelihood(ahead)
            if found >= likelihood:
                return ahead, found
        return twice, self._log_likelihood(twice)
