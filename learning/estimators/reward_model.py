"""Model of the expected reward of a result, for doubly robust estimates.

The expected reward is the mean reward at the position plus the mean residual of the (query, document), shrunken:

    m(query, document, position) = mean(position) + sum of residuals / (n + SMOOTHING)

A document that the log never showed for the query has the mean of the position. The shrunken mean is that of a normal
prior with SMOOTHING observations (Efron & Morris, 1975, "Data analysis using Stein's estimator"). Each execution is
predicted by a model that was fitted to the executions of other folds (cross-fitting; Chernozhukov et al., 2018,
"Double/debiased machine learning"): a model that has seen a result makes the correction of its own error too small.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

FOLDS = 5
SMOOTHING = 10.0
"""Number of results with a residual of 0 that every (query, document) begins with."""


class ModelledResults(NamedTuple):
    """Shown results: arrays with one entry each. Numbers begin at 0."""

    reward: Floats
    position: Integers
    """Number of the position among those of the log."""
    item: Integers
    """Number of the pair of query and document."""
    context: Integers
    """Number of the query, or of query and position, for which the policy chooses a document."""
    fold: Integers
    """Fold of the execution, from 0 to FOLDS - 1."""


class PolicyEntries(NamedTuple):
    """Probabilities of the policy for items of the log: arrays with one entry each."""

    context: Integers
    item: Integers
    probability: Floats


def expected_rewards(results: ModelledResults, policy: PolicyEntries) -> tuple[Floats, Floats]:
    """Return the expected reward of each shown document, and of the document that the policy would show instead.

    The policy's probabilities sum to 1 in each context; documents without an entry have the mean of the position.
    """
    expected, of_policy = np.zeros(len(results.reward)), np.zeros(len(results.reward))
    items = 1 + int(max(results.item.max(initial=-1), policy.item.max(initial=-1)))
    contexts = 1 + int(max(results.context.max(initial=-1), policy.context.max(initial=-1)))
    for fold in range(FOLDS):
        own = results.fold == fold
        of_position, of_item = _fit(results, ~own, items)
        base = of_position[results.position[own]]
        expected[own] = base + of_item[results.item[own]]
        chosen = np.bincount(policy.context, policy.probability * of_item[policy.item], contexts)
        of_policy[own] = base + chosen[results.context[own]]
    return expected, of_policy


def _fit(results: ModelledResults, used: npt.NDArray[np.bool_], items: int) -> tuple[Floats, Floats]:
    """Return the mean reward of each position, and the shrunken residual of each item."""
    reward, position, item = results.reward[used], results.position[used], results.item[used]
    positions = 1 + int(results.position.max(initial=-1))
    shown = np.bincount(position, minlength=positions)
    overall = reward.mean() if len(reward) else 0.0
    of_position = np.where(shown > 0, np.bincount(position, reward, positions) / np.maximum(shown, 1), overall)
    residual = np.bincount(item, reward - of_position[position], items)
    return of_position, residual / (np.bincount(item, minlength=items) + SMOOTHING)
