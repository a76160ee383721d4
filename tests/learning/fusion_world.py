"""World of a simulated search application that ranks by a weighted sum of three scores of each document.

Each query has its own documents, with a score in [0, 1] for each feature. The relevance of a document to a user is the
sum of its scores, weighted with the user's true coefficients, so these are the weights with the largest expected
reward. The coefficients of most users drift from day to day, and at the change those of the best and the worst
feature are swapped. Some users have a taste: a feature of their own that matters most to them on all days.

A result that is examined is clicked with probability attraction * relevance ^ CURVE. It is attributed to the feature
that contributes most to its weighted sum. The world of a seed is the same for every learner, with the coin of each
document in each search: the same documents in the same places get the same clicks.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

FEATURES = ("embedding://image", "embedding://text", "score://popularity")
USERS, QUERIES, DOCUMENTS, SHOWN = 500, 200, 30, 10
DAYS, CHANGE_DAY = 30, 15
"""Days of the simulation, and the day (from 0) on which the best and the worst feature are swapped."""
FIRST_DAY = 20_500
"""Days since 1970-01-01 of the first day."""
COEFFICIENTS = (0.75, 0.15, 0.10)
"""Coefficients before the drift, and those of users with a taste; their order of features is drawn."""
DRIFT = 0.08
"""Standard deviation of a day's change of each coefficient's logarithm."""
TASTE_SHARE = 0.3
CURVE = 3.0
EXAMINATION = np.arange(1, SHOWN + 1) ** -0.6
"""Probability that a position is examined."""
NO_TASTE = -1


class WorldSize(NamedTuple):
    """Size of a world."""

    searches: int = 20_000
    """Searches, evenly spread over the days."""
    attraction: float = 0.6
    """Probability of a click on an examined document of relevance 1."""


class ShownResults(NamedTuple):
    """Results of some searches."""

    features: Integers
    """Feature to which each result is attributed, of search and position."""
    clicked: NDArray[np.bool_]
    """By search and position."""
    expected: Floats
    """Expected number of clicks of each search."""


class FusionWorld:
    """World of one seed: documents, users, and a stream of searches in order of their time."""

    def __init__(self, seed: int, size: WorldSize) -> None:
        random = np.random.default_rng([seed, 1])
        features = len(FEATURES)
        self.seed, self.size = seed, size
        self.scores: Floats = random.random((QUERIES, DOCUMENTS, features))
        self.taste: Integers = np.where(
            random.random(USERS) < TASTE_SHARE, random.integers(0, features, USERS), NO_TASTE
        )
        self.daily: Floats = _daily_coefficients(random)
        activity = random.gamma(1.0, 1.0, USERS)
        self.user: Integers = random.choice(USERS, size.searches, p=activity / activity.sum())
        self.query: Integers = random.integers(0, QUERIES, size.searches)
        self.day: Integers = np.arange(size.searches) * DAYS // size.searches
        self.coin: Floats = random.random((size.searches, DOCUMENTS))
        own = np.full((features, features), sum(COEFFICIENTS[1:]) / (features - 1))
        np.fill_diagonal(own, COEFFICIENTS[0])
        taste = self.taste[self.user]
        self.coefficients: Floats = np.where((taste == NO_TASTE)[:, None], self.daily[self.day], own[taste])
        """True coefficients, of search and feature."""

    def rounds(self, searches: int) -> list[slice]:
        """Return the searches in rounds: all of a round are served before the results of any are known."""
        return [
            slice(first, min(first + searches, self.size.searches)) for first in range(0, self.size.searches, searches)
        ]

    def show(self, searches: slice, weights: Floats) -> ShownResults:
        """Rank the documents of some searches by weights (of search and feature), and return what is clicked."""
        query, rows = self.query[searches], np.arange(searches.stop - searches.start)[:, None]
        scores = self.scores[query]
        order = np.argsort(-np.einsum("sdf,sf->sd", scores, weights), axis=1, kind="stable")[:, :SHOWN]
        shown = scores[rows, order]
        relevance = np.einsum("spf,sf->sp", shown, self.coefficients[searches])
        chance = EXAMINATION * self.size.attraction * relevance**CURVE
        return ShownResults(
            np.argmax(shown * weights[:, None, :], axis=2),
            self.coin[searches][rows, order] < chance,
            chance.sum(axis=1),
        )

    def expected_of(self, weights: Floats) -> Floats:
        """Return the expected clicks of each search with the same weights in all of them."""
        order = np.argsort(-(self.scores @ weights), axis=1, kind="stable")[:, :SHOWN]
        shown = np.take_along_axis(self.scores, order[:, :, None], axis=1)[self.query]
        relevance = np.einsum("spf,sf->sp", shown, self.coefficients)
        expected: Floats = self.size.attraction * (relevance**CURVE @ EXAMINATION)
        return expected

    @property
    def change(self) -> int:
        """First search after the change."""
        return int(np.searchsorted(self.day, CHANGE_DAY))


def _daily_coefficients(random: np.random.Generator) -> Floats:
    """Return the coefficients of users without a taste, of day and feature."""
    features = len(FEATURES)
    steps = random.normal(0, DRIFT, (DAYS, features))
    logarithms = np.log(random.permutation(COEFFICIENTS)) + np.cumsum(steps, axis=0)
    before = logarithms[CHANGE_DAY - 1]
    best, worst = int(before.argmax()), int(before.argmin())
    swapped = np.arange(features)
    swapped[[best, worst]] = worst, best
    logarithms[CHANGE_DAY:] = logarithms[CHANGE_DAY:, swapped]
    found: Floats = np.exp(logarithms)
    found /= found.sum(axis=1, keepdims=True)
    return found


def simplex(parts: int) -> Floats:
    """Return all weights that are multiples of 1 / parts and sum to 1, of arm and feature (three)."""
    found: Any = [(one, two, parts - one - two) for one in range(parts + 1) for two in range(parts + 1 - one)]
    return np.array(found, np.float64) / parts
