"""Learners of weights in a simulated search application: Tally's own code, and simple ones to compare it with.

All get the same: the user and day of a search, and after each round the results with their features and clicks.
"""

from collections import Counter, defaultdict
from typing import NamedTuple, Protocol

import numpy as np

from learning.estimators.posterior import (
    Posterior,
    ResultCount,
    Shape,
    clipped_weights,
    draw,
    effective_exploration,
    posterior,
    uniform_weights,
)
from schemas.learning_config import LearningConfig
from schemas.type_sets import type_set
from tests.learning.fusion_world import FEATURES, FIRST_DAY, Floats, FusionWorld, Integers, ShownResults, simplex

ROUND_SEARCHES = 20
"""Searches of a round: all learners see results with this delay."""
ARM_PARTS = 4
"""Arms are the weights that are multiples of 1 / 4: 15 for three features."""

_IMPRESSION, _CLICK = type_set(["impression"]), type_set(["click"])


class WeightLearner(Protocol):
    """Learner of weights."""

    def serve(self, searches: slice) -> Floats:
        """Return the weights, of search and feature."""

    def learn(self, searches: slice, found: ShownResults) -> None:
        """Take the results of a round."""


class ServedWeights(NamedTuple):
    """Weights that a learner served in a world, and what they achieved."""

    weights: Floats
    """By search and feature."""
    expected: Floats
    """Expected clicks of each search."""


def run_learner(world: FusionWorld, learner: WeightLearner) -> ServedWeights:
    """Return what a learner achieves: it serves and learns round by round."""
    weights, expected = [], []
    for searches in world.rounds(ROUND_SEARCHES):
        served = learner.serve(searches)
        found = world.show(searches, served)
        learner.learn(searches, found)
        weights.append(served)
        expected.append(found.expected)
    return ServedWeights(np.concatenate(weights), np.concatenate(expected))


class ContextCounts:
    """Counts of results of one context, as `learning_counts` has them."""

    def __init__(self) -> None:
        self._rows: list[ResultCount] = []
        """Rows of the days before the last one."""
        self._last_day = 0
        self._results = Counter[tuple[int, bool]]()
        """Results of the last day, by feature and whether they were clicked."""

    def add(self, day: int, feature: int, is_clicked: bool) -> None:
        """Count a result; days ascend."""
        if day != self._last_day:
            self._rows, self._last_day = self.rows(), day
            self._results.clear()
        self._results[feature, is_clicked] += 1

    def rows(self) -> list[ResultCount]:
        """Return the rows: a clicked result has an impression and a click."""
        day = FIRST_DAY + self._last_day
        return self._rows + [
            ResultCount(
                day,
                FEATURES[feature],
                (_IMPRESSION, _CLICK) if is_clicked else (_IMPRESSION,),
                (1, 1) if is_clicked else (1,),
                results,
            )
            for (feature, is_clicked), results in self._results.items()
        ]


class TallyLearner:
    """Tally's weights: the posterior of a context, a draw, clipped and made to sum to 1; personal, global or static."""

    def __init__(self, world: FusionWorld, config: LearningConfig, strength: float | None = None) -> None:
        """With `strength`, personal posteriors start from the global one, scaled down to this many observations.

        That is a proposal: Tally does not serve it.
        """
        self._world, self._config, self._strength = world, config, strength
        self._random = np.random.default_rng([world.seed, 2])
        self._all = ContextCounts()
        self._users: dict[int, ContextCounts] = defaultdict(ContextCounts)

    def serve(self, searches: slice) -> Floats:
        """Draw weights for each search, from the results up to the round before."""
        day = FIRST_DAY + int(self._world.day[searches.start])
        everyone = posterior(self._all.rows(), self._config, day)
        return np.array([self._weights(int(user), everyone, day) for user in self._world.user[searches]])

    def learn(self, searches: slice, found: ShownResults) -> None:
        """Count the results of a round, for all users together and for each."""
        users, days = self._world.user[searches].tolist(), self._world.day[searches].tolist()
        for user, day, features, clicked in zip(
            users, days, found.features.tolist(), found.clicked.tolist(), strict=True
        ):
            for feature, is_clicked in zip(features, clicked, strict=True):
                self._all.add(day, feature, is_clicked)
                self._users[user].add(day, feature, is_clicked)

    def _weights(self, user: int, everyone: Posterior, day: int) -> list[float]:
        chosen = everyone
        if self._config.is_personal and user in self._users:
            personal = posterior(self._users[user].rows(), self._config, day)
            if personal.interactions >= self._config.min_interactions:
                chosen = personal if self._strength is None else self._shrunken(personal, everyone, self._strength)
        if not chosen.shapes:
            return uniform_weights(len(FEATURES))
        prior = self._prior
        shapes = [chosen.shapes.get(feature, prior) for feature in FEATURES]
        exploration = effective_exploration(self._config, chosen.interactions)
        return clipped_weights(draw(shapes, exploration, self._random), self._config)

    @property
    def _prior(self) -> Shape:
        return Shape(self._config.prior_alpha, self._config.prior_beta)

    def _shrunken(self, personal: Posterior, everyone: Posterior, strength: float) -> Posterior:
        """Return the personal posterior with the scaled global one in place of the prior."""
        shapes = {}
        for feature in FEATURES:
            shared = everyone.shapes.get(feature, self._prior)
            scale = min(1.0, strength / sum(shared))
            own = personal.shapes.get(feature, self._prior)
            shapes[feature] = Shape(
                scale * shared.alpha + own.alpha - self._config.prior_alpha,
                scale * shared.beta + own.beta - self._config.prior_beta,
            )
        return personal._replace(shapes=shapes)


class GivenWeights:
    """Weights that are known before: the same in all searches, or of each search."""

    def __init__(self, weights: Floats) -> None:
        self._weights = weights

    def serve(self, searches: slice) -> Floats:
        """Return the weights."""
        each = self._weights
        return each[searches] if each.ndim > 1 else np.tile(each, (searches.stop - searches.start, 1))

    def learn(self, searches: slice, found: ShownResults) -> None:
        """Learn nothing."""


class EpsilonGreedyArms:
    """The arm with the most clicks per search, counted with a decay; with probability epsilon an arm at random."""

    def __init__(self, world: FusionWorld, epsilon: float, memory: int) -> None:
        """Old searches count (1 - 1 / memory) ^ (searches since then)."""
        self._random = np.random.default_rng([world.seed, 3])
        self._arms, self._epsilon, self._kept = simplex(ARM_PARTS), epsilon, 1 - 1 / memory
        self._searches, self._clicks = np.full(len(self._arms), 1e-3), np.full(len(self._arms), 1.0)
        self._served: Integers = np.zeros(0, np.int64)

    def serve(self, searches: slice) -> Floats:
        """Choose an arm for each search."""
        size = searches.stop - searches.start
        best = int((self._clicks / self._searches).argmax())
        explored = self._random.integers(0, len(self._arms), size)
        self._served = np.where(self._random.random(size) < self._epsilon, explored, best)
        return self._arms[self._served]

    def learn(self, searches: slice, found: ShownResults) -> None:  # noqa: ARG002 - all learners are called alike
        """Count searches and clicks of the arms that were served."""
        kept = self._kept ** len(self._served)
        self._searches *= kept
        self._clicks *= kept
        np.add.at(self._searches, self._served, 1)
        np.add.at(self._clicks, self._served, found.clicked.sum(axis=1))


def best_fixed(world: FusionWorld, first: int, end: int, parts: int = 20) -> Floats:
    """Return the best weights in hindsight for searches from first up to end, among multiples of 1 / parts."""
    grid = simplex(parts)
    means = [world.expected_of(weights)[first:end].mean() for weights in grid]
    best: Floats = grid[int(np.argmax(means))]
    return best
