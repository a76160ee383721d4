"""Densities of drawn weights: how much more often another posterior would have served the weights that were served.

The draw theta of a feature is from Beta(alpha / e, beta / e), e being the exploration, and has its density p(theta).
Draws of features are independent, so the weight of a decision is

    w = product over the features of p_target(theta) / p_logged(theta)

The served weights are a function of all draws of the decision, the same for both posteriors if these have the same
bounds, so w is an importance weight of the served weights, too. Draws with equal shares are served as equal weights, so
the ratio of the densities of the weights would have a smaller variance (Rao and Blackwell), but it has no closed form.
w is right if the logged parameters are those that were drawn from.
"""

import numpy as np
import numpy.typing as npt
from scipy.special import betainc, betaln, xlog1py, xlogy

from learning.estimators.posterior import SMALLEST_SHAPE

Floats = npt.NDArray[np.float64]

LEAST_DRAW = 1e-300
LARGEST_DRAW = 1 - 1e-12
"""Draws beyond these are rounded to 0 and 1 in 64-bit numbers: each end is one outcome, with its probability."""
LEAST_LOG_DENSITY = -100.0
"""Logarithm of a density below which a draw is impossible: draws are from 0 to 1, so the probability of such a draw is
less than exp(-100)."""


def log_density(draws: Floats, alpha: Floats, beta: Floats) -> Floats:
    """Return the logarithm of the density of each draw.

    `draws`: from 0 to 1. `alpha`, `beta`: parameters of the distribution that is drawn from, above 0.
    """
    inside = np.clip(draws, LEAST_DRAW, LARGEST_DRAW)
    found: Floats = xlogy(alpha - 1, inside) + xlog1py(beta - 1, -inside) - betaln(alpha, beta)
    is_0, is_1 = draws <= LEAST_DRAW, draws >= LARGEST_DRAW
    with np.errstate(divide="ignore"):  # a probability that is rounded to 0 has the logarithm -inf
        found[is_0] = np.log(betainc(alpha[is_0], beta[is_0], LEAST_DRAW))
        found[is_1] = np.log(betainc(beta[is_1], alpha[is_1], 1 - LARGEST_DRAW))
    return found


def explored(shape: Floats, exploration: Floats) -> Floats:
    """Return the parameter of the distribution that `posterior.draw` draws from."""
    return np.maximum(SMALLEST_SHAPE, shape / exploration)
