"""Densities of drawn weights: how much more often another posterior would have served the weights that were served.

A draw theta of a feature from Beta(alpha / e, beta / e), e being the exploration, is served as c = min(high, max(low,
theta)). The draw outside the bounds is not served, so the density is that of c: F(low) at c = low, 1 - F(high) at c =
high, and the Beta density f(theta) in between. Draws of features are independent, so the weight of a decision is

    w = product over the features of p_target(c) / p_logged(c)

The ratio of the densities of theta has the same mean given c, and a variance that is at least as large (Rao and
Blackwell): it also compares draws that clipping made equal. Both posteriors must have the same bounds. The weight is
right if the logged parameters are those that were drawn from.
"""

import numpy as np
import numpy.typing as npt
from scipy.special import betainc, betaln, xlog1py, xlogy

from learning.estimators.posterior import SMALLEST_SHAPE

Floats = npt.NDArray[np.float64]

LEAST_DRAW = 1e-300
LARGEST_DRAW = 1 - 1e-12
"""Draws beyond these are rounded to 0 and 1 in 64-bit numbers, so each end is one outcome."""


def log_density(draws: Floats, alpha: Floats, beta: Floats, low: float, high: float) -> Floats:
    """Return the logarithm of the density of each clipped draw.

    `draws`: from 0 to 1, before clipping. `alpha`, `beta`: parameters of the distribution that is drawn from, above 0.
    """
    low, high = max(low, LEAST_DRAW), min(high, LARGEST_DRAW)
    inside = np.clip(draws, low, high)
    found: Floats = xlogy(alpha - 1, inside) + xlog1py(beta - 1, -inside) - betaln(alpha, beta)
    is_low, is_high = draws <= low, draws >= high
    with np.errstate(divide="ignore"):  # a mass that is rounded to 0 has the logarithm -inf
        found[is_low] = np.log(betainc(alpha[is_low], beta[is_low], low))
        found[is_high] = np.log(betainc(beta[is_high], alpha[is_high], 1 - high))
    return found


def explored(shape: Floats, exploration: Floats) -> Floats:
    """Return the parameter of the distribution that `posterior.draw` draws from."""
    return np.maximum(SMALLEST_SHAPE, shape / exploration)
