"""Held-out queries of the simulation: rankings of a retriever's documents, scored by their true grades."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from producers.simulation.world import RETRIEVERS, Ranked, the_world

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Scorer = Callable[[Floats], Floats]
"""Function from features, of shape (documents, FEATURES), to scores: the highest first."""

FEATURES = ("document_score", "metadata.text_match", "metadata.image_match", "metadata.popularity")
HELD_OUT = 0.3
"""Share of the queries that no model sees."""
DEPTH = 10


class HeldOutQuery(NamedTuple):
    """Query that no model sees, with the documents that a retriever finds for it, in the order of their ids."""

    features: Floats
    """Shape (documents, FEATURES), as the events have them."""
    grades: Integers
    logged: Integers
    """Indexes of the documents in each ordering that the retriever shows, shape (orderings, documents)."""


def is_held_out(text: str) -> bool:
    """Return whether a query is held out, by a hash of its text."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big") < HELD_OUT * 2**32


def true_grades() -> Mapping[str, Mapping[str, int]]:
    """Return the grades, from 1 to 4, of the relevant documents of each query, by its text."""
    return {query.text: query.grades for query in the_world().queries}


@cache
def held_out(retriever: str) -> Sequence[HeldOutQuery]:
    """Return the held-out queries for which a retriever finds a relevant document."""
    world = the_world()
    orderings = world.orderings[[each.name for each in RETRIEVERS].index(retriever)]
    found = list[HeldOutQuery]()
    for query, features, lists in zip(world.queries, world.features, orderings, strict=True):
        if not is_held_out(query.text) or not lists or not any(ranked.grade for ranked in lists[0]):
            continue
        ranked: Sequence[Ranked] = sorted(lists[0], key=lambda each: each.document.id)
        number = {each.document.id: index for index, each in enumerate(ranked)}
        found.append(
            HeldOutQuery(
                np.array([[each.score, *features[each.document.id]] for each in ranked]),
                np.array([each.grade for each in ranked]),
                np.array([[number[each.document.id] for each in ordering] for ordering in lists]),
            )
        )
    return found


def ndcg(grades: Integers) -> float:
    """Return nDCG at DEPTH of grades in ranked order: gain 2^grade - 1, discount 1 / log2(position + 2).

    The ideal order is that of the same grades. Burges et al., 2005, "Learning to Rank using Gradient Descent".
    """
    discounts = 1 / np.log2(np.arange(2, DEPTH + 2))
    gains = 2.0**grades - 1
    gained, ideal = (float(each[:DEPTH] @ discounts[: len(each)]) for each in (gains, np.sort(gains)[::-1]))
    return gained / ideal


def scores_of(retriever: str, scorer: Scorer) -> Floats:
    """Return nDCG of each held-out query, with documents ranked by a scorer; ties in the order of their ids."""
    return np.array(
        [ndcg(each.grades[np.argsort(-scorer(each.features), kind="stable")]) for each in held_out(retriever)]
    )


def logged_scores(retriever: str) -> Floats:
    """Return the mean nDCG of the orderings that the retriever shows, of each held-out query."""
    return np.array([np.mean([ndcg(each.grades[order]) for order in each.logged]) for each in held_out(retriever)])


def by_document_score(features: Floats) -> Floats:
    """Return the retriever's own score of each document."""
    return features[:, FEATURES.index("document_score")]
