"""Propensities by all-pairs intervention harvesting: comparisons of positions on the items that were shown at both.

Agarwal et al., 2019, "Estimating Position Bias without Intrusive Interventions": for each pair of positions (k, k'),
the items shown at both are an experiment in which attraction is equal. Weighted clicks C and weighted skips S of the
pair at k and at k' maximise

    sum over pairs and k of the pair: C log(theta_k r_kk') + S log(1 - theta_k r_kk'),    r_kk' = r_k'k

which is the likelihood of the position-based model with the pairs of positions as its items: `position_model` maximises
it. The paper weighs each impression by 1 / (number of impressions of the item at that position), so that every item
counts alike, frequent or rare. Here an item counts n_k n_k' / (n_k + n_k') at both positions, as in the common risk
ratio of Mantel and Haenszel (1959; Greenland and Robins, 1985, "Estimation of a Common Effect Parameter from Sparse
Follow-Up Data"): nearly the smallest variance for rare clicks, and no bias with any number of items of few impressions.

Where it lies: as `position_model` does where clicks depend on other results or attraction differs between positions.
"""

import numpy as np

from learning.estimators.cells import Floats, Integers, ItemCells, seen_elsewhere
from learning.estimators.position_model import log_propensities as fitted


def log_propensities(cells: ItemCells, impressions: Floats, clicks: Floats, start: Floats | None = None) -> Floats:
    """Return log theta of each position, up to one constant, or NaN where the counts do not determine it.

    `start`: log theta of similar counts, from which the iteration starts.
    """
    pairs, shown, clicked = pairs_of(cells, impressions, clicks)
    return fitted(pairs, shown, clicked, start)


def pairs_of(cells: ItemCells, impressions: Floats, clicks: Floats) -> tuple[ItemCells, Floats, Floats]:
    """Return the pairs of positions as items, with the weighted impressions and clicks at both of their positions.

    Time: proportional to the number of pairs of cells of the same item. Memory: to the cells and to positions^2.
    """
    size = cells.positions
    kept = seen_elsewhere(cells, impressions)
    item, position = cells.item[kept], cells.position[kept]
    n, rate = impressions[kept], clicks[kept] / impressions[kept]
    shown, at_low, at_high = np.zeros(size * size), np.zeros(size * size), np.zeros(size * size)
    for distance in range(1, size):
        same = np.flatnonzero(item[distance:] == item[:-distance])
        if not len(same):
            break
        other = same + distance
        pair = position[same] * size + position[other]
        weight = n[same] * n[other] / (n[same] + n[other])
        shown += np.bincount(pair, weight, size * size)
        at_low += np.bincount(pair, weight * rate[same], size * size)
        at_high += np.bincount(pair, weight * rate[other], size * size)
    pair = np.flatnonzero(shown)
    both: Integers = np.stack([pair // size, pair % size], axis=1).ravel()
    found = ItemCells(np.repeat(np.arange(len(pair)), 2), both, len(pair), size)
    return found, np.repeat(shown[pair], 2), np.stack([at_low[pair], at_high[pair]], axis=1).ravel()
