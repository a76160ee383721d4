"""Propensities from slots that were randomised: click-through at a position relative to that at the reference.

Joachims et al., 2017, "Unbiased Learning-to-Rank with Biased Feedback", section 5.3: where chance decides which
document gets a slot, attraction is the same at each position, and the ratio of click-through is that of examination.
Documents may have unequal chances, so each impression counts 1 / p, p being the logged propensity (Horvitz and
Thompson, 1952):

    theta_k / theta_0 = [sum at k of click / p / sum at k of 1 / p] / [sum at 0 of click / p / sum at 0 of 1 / p]

Where it lies: the documents at both positions must be the same. A document that is never shown at the reference is
missing there, whatever the weights; `foreign_share` measures it. Wrong logged propensities are not noticed.
"""

import numpy as np

from learning.estimators.cells import Floats, Integers, ItemCells

MAX_FOREIGN_SHARE = 0.05
"""Largest share of the weighted impressions at a position, beyond chance, of items never shown at another one."""
MIN_EFFECTIVE = 100.0
"""Smallest effective number of impressions of a position that is estimated."""


def log_ratios(weighted_impressions: Floats, weighted_clicks: Floats) -> Floats:
    """Return the log of the click-through rate of each position, up to one constant; NaN where it is 0 or unknown."""
    found = np.full(len(weighted_impressions), np.nan)
    known = (weighted_impressions > 0) & (weighted_clicks > 0)
    found[known] = np.log(weighted_clicks[known]) - np.log(weighted_impressions[known])
    return found


def effective_impressions(weighted: Floats, squared: Floats) -> Floats:
    """Return the effective number of impressions (Kish, 1965): (sum of w)^2 / (sum of w^2), w = 1 / p."""
    return np.asarray(weighted**2 / squared)


def foreign_share(
    cells: ItemCells, impressions: Floats, weighted: Floats, positions: tuple[int, int]
) -> tuple[float, float]:
    """Return the share of the weighted impressions at the first position of items never shown at the second.

    Then the part of it to expect by chance if each item had the same chance at both: for a Poisson number of
    impressions with mean m at both, the expected impressions at the one of an item missing at the other are m exp(-m),
    as many as of items shown once (Good, 1953, "The Population Frequencies of Species").
    """
    here, there = (cells.position == index for index in positions)
    is_there = np.zeros(cells.items, np.bool_)
    is_there[cells.item[there]] = True
    total = float(weighted[here].sum())
    foreign = float(weighted[here & ~is_there[cells.item]].sum())
    once = float(weighted[here & (impressions == 1)].sum())
    return foreign / total, once / total


def foreign_reasons(cells: ItemCells, impressions: Floats, weighted: Floats, shown: Integers) -> list[str]:
    """Return, for each position, the reason for which it does not compare with the first, or an empty text.

    `shown`: the positions by index.
    """
    reasons = [""]
    for index in range(1, cells.positions):
        reason = ""
        for here, there in ((index, 0), (0, index)):
            share, chance = foreign_share(cells, impressions, weighted, (here, there))
            if share - chance > MAX_FOREIGN_SHARE and not reason:
                reason = (
                    f"{share:.0%} of the weighted impressions at position {shown[here]} are of documents never shown "
                    f"at position {shown[there]} ({chance:.0%} by chance): the slots were not randomised"
                )
        reasons.append(reason)
    return reasons
