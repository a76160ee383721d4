"""Posterior of each feature's weight, from counts of results, and the draw of weights from it.

Thompson sampling for rewards in [0, 1] (Chapelle and Li 2011), with Beta distributions: alpha is the prior plus the
decayed positive rewards; beta is the prior plus the decayed shown results without a positive reward, and plus the
decayed negative rewards. An event of age a days, by event time in UTC, counts decay_factor ^ a.

Sums of a day are whole numbers, and days are added in ascending order, so that equal counts give equal bits.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from schemas.learning_config import LearningConfig
from schemas.rewards import MICROS, MicroRewards
from schemas.type_sets import IMPRESSION, reward_micros

SMALLEST_SHAPE = 1e-9
"""Least parameter of a Beta distribution that is drawn from."""
SMALLEST_EXPLORATION = 1e-6
"""Exploration below which the mean is served: the draws would not differ from it."""


class ResultCount(NamedTuple):
    """Number of equal results of one feature on one day: rows of `learning_counts` of one context."""

    day: int
    """Days since 1970-01-01, UTC, by event time."""
    feature_uri: str
    type_sets: tuple[int, ...]
    """Distinct type sets of the events of each of these results."""
    times: tuple[int, ...]
    """Events with each of these type sets, in one result."""
    results: int


class Shape(NamedTuple):
    """Parameters of a Beta distribution."""

    alpha: float
    beta: float

    @property
    def mean(self) -> float:
        """Mean of the distribution."""
        return self.alpha / (self.alpha + self.beta)


class Posterior(NamedTuple):
    """Posterior of a context."""

    shapes: Mapping[str, Shape]
    """By feature_uri, of features with results, in the order of their names."""
    interactions: int
    """Events with a reward other than 0, inside the window, undecayed."""


class DaySums(NamedTuple):
    """Sums of one feature on one day. Rewards are in millionths."""

    positive: int = 0
    negative: int = 0
    """Absolute value."""
    unrewarded: int = 0
    """Results that were shown, and have no event with a positive reward."""
    interactions: int = 0


def day_sums(counts: Iterable[ResultCount], rewards: MicroRewards) -> dict[tuple[str, int], DaySums]:
    """Return the sums by feature and day. Exact, and independent of the order of the counts."""
    known: dict[int, int] = {}
    found: dict[tuple[str, int], DaySums] = {}
    for count in counts:
        positive = negative = interactions = 0
        is_shown = False
        for types, times in zip(count.type_sets, count.times, strict=True):
            reward = known[types] if types in known else known.setdefault(types, reward_micros(types, rewards))
            is_shown = is_shown or bool(types & IMPRESSION)
            positive += times * max(0, reward)
            negative += times * max(0, -reward)
            interactions += times * (reward != 0)
        before = found.get((count.feature_uri, count.day), DaySums())
        found[count.feature_uri, count.day] = DaySums(
            before.positive + count.results * positive,
            before.negative + count.results * negative,
            before.unrewarded + count.results * (is_shown and positive == 0),
            before.interactions + count.results * interactions,
        )
    return found


def posterior(counts: Iterable[ResultCount], config: LearningConfig, today: int) -> Posterior:
    """Return the posterior on a day (days since 1970-01-01, UTC), from counts: see `posterior_of`."""
    return posterior_of(day_sums(counts, config.rewards.in_micros()), config, today)


def posterior_of(sums: Mapping[tuple[str, int], DaySums], config: LearningConfig, today: int) -> Posterior:
    """Return the posterior on a day (days since 1970-01-01, UTC), from sums by feature and day.

    Days after `today` count as today. Days that are decay_window_days old or older do not count.
    """
    alphas: dict[str, float] = defaultdict(lambda: config.prior_alpha)
    betas: dict[str, float] = defaultdict(lambda: config.prior_beta)
    interactions = 0
    for (feature, day), found in sorted(sums.items()):
        age = max(0, today - day)
        if age >= config.decay_window_days:
            continue
        decay = config.decay_factor**age
        alphas[feature] += decay * found.positive / MICROS
        betas[feature] += decay * (found.unrewarded + found.negative / MICROS)
        interactions += found.interactions
    return Posterior({feature: Shape(alphas[feature], betas[feature]) for feature in alphas}, interactions)


def with_session(
    found: Posterior, events: Mapping[tuple[str, int], int], config: LearningConfig, strength: float
) -> Posterior:
    """Return the posterior after a session's events, which are numbers of events by feature and type set.

    The shape of a feature that the session has events of is first scaled down to at most `strength` observations, with
    the same mean: otherwise three clicks would change nothing that was learned from a million. In a session each
    positive event answers one impression, because results are not told apart.
    """
    rewards = config.rewards.in_micros()
    positive: dict[str, int] = defaultdict(int)
    negative: dict[str, int] = defaultdict(int)
    unrewarded: dict[str, int] = defaultdict(int)
    for (feature, types), times in sorted(events.items()):
        reward = reward_micros(types, rewards)
        positive[feature] += times * max(0, reward)
        negative[feature] += times * max(0, -reward)
        unrewarded[feature] += times * (bool(types & IMPRESSION) - (reward > 0))
    shapes = dict(found.shapes)
    for feature in sorted(positive):
        before = shapes.get(feature, Shape(config.prior_alpha, config.prior_beta))
        scale = min(1.0, strength / (before.alpha + before.beta))
        shapes[feature] = Shape(
            scale * before.alpha + positive[feature] / MICROS,
            scale * before.beta + max(0, unrewarded[feature]) + negative[feature] / MICROS,
        )
    return found._replace(shapes=dict(sorted(shapes.items())))


def effective_exploration(config: LearningConfig, interactions: int) -> float:
    """Return the exploration of a context after some interactions: the bonus, decayed, and at least the floor."""
    decayed: float = config.exploration_bonus * config.exploration_decay**interactions
    return max(config.exploration_floor, decayed)


def draw(shapes: Sequence[Shape], exploration: float, random: np.random.Generator | None) -> list[float]:
    """Return one value for each shape: the mean without `random` or exploration, else a draw.

    Exploration e draws from Beta(alpha / e, beta / e): the same mean, and about e times the variance.
    """
    if random is None or exploration < SMALLEST_EXPLORATION:
        return [shape.mean for shape in shapes]
    alphas = [max(SMALLEST_SHAPE, shape.alpha / exploration) for shape in shapes]
    betas = [max(SMALLEST_SHAPE, shape.beta / exploration) for shape in shapes]
    return [float(value) for value in random.beta(alphas, betas)]


def clipped_weights(draws: Sequence[float], config: LearningConfig) -> list[float]:
    """Return weights that sum to 1: shares of the draws, clipped to [min_weight, max_weight], divided by their sum.

    Draws of 0 only: equal weights. Common factors of the draws have no effect: rates differ by orders of magnitude
    between applications, and bounds of the draws themselves would make all weights equal where all rates are low.
    """
    total = sum(draws)
    if total == 0:
        return uniform_weights(len(draws))
    clipped = [min(config.max_weight, max(config.min_weight, value / total)) for value in draws]
    total = sum(clipped)
    return [value / total for value in clipped]


def uniform_weights(features: int) -> list[float]:
    """Return equal weights that sum to 1."""
    return [1 / features] * features
