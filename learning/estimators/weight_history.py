"""Weights of a context on past days: the posterior from the counts up to each day, and how long it is at a bound."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

from learning.estimators.posterior import DaySums, clipped_weights, effective_exploration, posterior_of
from schemas.learning_config import LearningConfig

_ENDS = (0.025, 0.975)
"""Quantiles at the ends of a 95 % interval."""


class FeatureWeight(NamedTuple):
    """Weight of a feature on a day."""

    feature_uri: str
    alpha: float
    beta: float
    mean: float
    """Mean reward of a shown result, as the Beta posterior has it."""
    low: float
    """Quantile 0.025 of the posterior."""
    high: float
    """Quantile 0.975 of the posterior."""
    weight: float
    """Weight without exploration: share of the mean, clipped to [min_weight, max_weight], by the sum of these."""


class WeightDay(NamedTuple):
    """Weights of a context on one day."""

    day: int
    """Days since 1970-01-01, UTC."""
    interactions: int
    """Events with a reward other than 0 inside the window, undecayed."""
    effective_exploration: float
    features: tuple[FeatureWeight, ...]
    """In the order of their names."""


def weight_days(
    sums: Mapping[tuple[str, int], DaySums], config: LearningConfig, first: int, last: int
) -> list[WeightDay]:
    """Return the weights of each day from `first` to `last` that has results inside the window, that day included.

    Time is proportional to the number of sums times the number of days.
    """
    found = []
    for today in range(first, last + 1):
        known = posterior_of({key: value for key, value in sums.items() if key[1] <= today}, config, today)
        if not known.shapes:
            continue
        shapes = [*known.shapes.values()]
        alphas, betas = (np.array(values) for values in zip(*shapes, strict=True))
        lows, highs = (special.betaincinv(alphas, betas, end).tolist() for end in _ENDS)
        weights = clipped_weights([shape.mean for shape in shapes], config)
        features = tuple(
            FeatureWeight(name, shape.alpha, shape.beta, shape.mean, low, high, weight)
            for name, shape, low, high, weight in zip(known.shapes, shapes, lows, highs, weights, strict=True)
        )
        exploration = effective_exploration(config, known.interactions)
        found.append(WeightDay(today, known.interactions, exploration, features))
    return found


def days_at_bound(days: list[WeightDay], config: LearningConfig, today: int) -> dict[str, int]:
    """Return the number of consecutive days up to today on which a feature's share was at a bound or beyond it.

    The share is the mean by the sum over the features, before it is clipped to [min_weight, max_weight]. Features whose
    share is between the bounds today are left out, and days with one feature, whose weight is always 1.
    """
    found: dict[str, int] = {}
    held: set[str] | None = None
    for number, each in enumerate(reversed(days)):
        if each.day != today - number:
            break
        at_bound = _at_bound(each.features, config)
        held = at_bound if held is None else held & at_bound
        found.update(dict.fromkeys(held, number + 1))
    return found


def _at_bound(features: Sequence[FeatureWeight], config: LearningConfig) -> set[str]:
    if len(features) == 1:
        return set()
    total = sum(each.mean for each in features)
    return {each.feature_uri for each in features if not config.min_weight < each.mean / total < config.max_weight}
