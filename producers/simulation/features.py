"""Features of results from which a better ranking can be learned, the same for all seeds.

They have a Random of their own: everything else in the world is as it would be without them.
"""

import math
import random
from collections.abc import Sequence
from statistics import fmean, pstdev
from typing import NamedTuple

FEATURE_SEED = 1992
TEXT_NOISE, IMAGE_NOISE = 0.8, 1.0
"""Standard deviations of the noise of two views of a relevance whose own standard deviation is about 1."""
POPULARITY_CORRELATION = 0.3
"""Correlation of a document's popularity, before its logistic function, with its mean relevance."""
DECIMALS = 4


class Features(NamedTuple):
    """Features of a document for a query, each between 0 and 1: two noisy views of its relevance, its popularity."""

    text_match: float
    image_match: float
    popularity: float


def draw_features(stocks: Sequence[tuple[Sequence[str], Sequence[Sequence[float]]]]) -> list[dict[str, Features]]:
    """Return the features of each query's documents by document id, in the order of the queries.

    A stock is the ids of the documents of one category, and for each of its queries their relevances.
    """
    source, found = random.Random(FEATURE_SEED), list[dict[str, Features]]()
    for documents, queries in stocks:
        means = [fmean(relevances) for relevances in zip(*queries, strict=True)]
        center, spread = fmean(means), pstdev(means)
        own = math.sqrt(1 - POPULARITY_CORRELATION**2)
        popularity = [
            _share(POPULARITY_CORRELATION * (mean - center) / spread + own * source.gauss(0, 1)) for mean in means
        ]
        for relevances in queries:
            found.append(
                {
                    document: Features(
                        _share(relevance + source.gauss(0, TEXT_NOISE)),
                        _share(relevance + source.gauss(0, IMAGE_NOISE)),
                        popular,
                    )
                    for document, relevance, popular in zip(documents, relevances, popularity, strict=True)
                }
            )
    return found


def _share(value: float) -> float:
    """Return the logistic function of a value, rounded."""
    return round(1 / (1 + math.exp(-value)), DECIMALS)
