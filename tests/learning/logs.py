"""Counts of logs by hand: slots filled at random, and logs that determine no propensity."""

from datetime import timedelta

import numpy as np

from learning.counts import BUCKETS, ClickCounts
from learning.estimators.curve import PropensityMethod
from learning.scope import LearningScope
from tests.analytics.loading import BEGIN

SLOTS = 6


def scope_of(retriever: str, *path: str, namespace: str = "default") -> LearningScope:
    """Return the scope of all events that `tests.analytics.loading` stores."""
    return LearningScope(namespace, retriever, BEGIN, BEGIN + timedelta(days=365), path)


def uniform_examination(position: int) -> float:
    """Return the examination of `randomised_slots`."""
    return 1 / (position + 1)


def randomised_slots(executions: int, seed: int, queries: int = 200) -> ClickCounts:
    """Draw executions that show the SLOTS documents of a query in an order drawn uniformly."""
    source = np.random.default_rng(seed)
    attraction = source.beta(1, 4, (queries, SLOTS))
    query, bucket = source.integers(queries, size=executions), source.integers(BUCKETS, size=executions)
    order = source.random((executions, SLOTS)).argsort(axis=1)
    examined = source.random((executions, SLOTS)) < 1 / np.arange(1, SLOTS + 1)
    clicked = examined & (source.random((executions, SLOTS)) < attraction[query[:, None], order])
    item = query[:, None] * SLOTS + order
    key = ((item * SLOTS + np.arange(SLOTS)) * BUCKETS + bucket[:, None]).ravel()
    keys, index = np.unique(key, return_inverse=True)
    clicks = np.bincount(index, clicked.ravel().astype(np.float64)).astype(np.int64)
    item = np.unique(keys // (SLOTS * BUCKETS), return_inverse=True)[1].astype(np.int64)
    logged = np.full(len(keys), 1 / SLOTS)
    return ClickCounts(item, keys // BUCKETS % SLOTS, keys % BUCKETS, np.bincount(index), clicks, logged)


def counts_of(rows: list[tuple[int, int, int, int, int]], propensity: float | None = None) -> ClickCounts:
    """Return the counts of rows (item, position, bucket, impressions, clicks), with items numbered from 0."""
    columns = np.array(sorted(rows), np.int64).reshape(-1, 5).T
    item = np.unique(columns[0], return_inverse=True)[1].astype(np.int64)
    logged = None if propensity is None else np.full(columns.shape[1], propensity)
    return ClickCounts(item, columns[1], columns[2], columns[3], columns[4], logged)


_ONE_POSITION = counts_of([(item, 2, item, 10, 3) for item in range(9)])
_ONE_DOCUMENT = counts_of([(item, item % 3, item, 10, 3) for item in range(9)])
_NO_CLICKS = counts_of([(0, place, 1, 10, 0) for place in range(3)])
_NO_CLICKS_AT_REFERENCE = counts_of([(0, 0, 1, 50, 0), (0, 1, 2, 50, 9)])
_FIXED_ORDER = counts_of([(place, place, bucket, 10, 3) for bucket in range(100) for place in range(3)], 1.0)
_LARGE_WEIGHT = counts_of([(0, place, bucket, 1, 1) for bucket in range(50) for place in range(2)], 1e-9)

REFUSED: dict[str, tuple[ClickCounts, PropensityMethod, str]] = {
    f"{name}, {method}": (counts, method, reason)
    for method in ("em", "harvesting")
    for name, counts, reason in (
        ("one position", _ONE_POSITION, "every result was shown at position 2"),
        ("one document per query", _ONE_DOCUMENT, "no document was shown at two positions for the same query"),
        ("no clicks", _NO_CLICKS, "no shown result was clicked"),
        ("no clicks at the reference", _NO_CLICKS_AT_REFERENCE, "no position compares with position 0"),
    )
} | {
    "fixed order, randomised": (_FIXED_ORDER, "randomised", "no document was shown at two positions"),
    "few effective impressions, randomised": (_LARGE_WEIGHT, "randomised", "leave an effective number of 50.0"),
}
"""Counts, method, and a part of the reason for which they are refused."""
