"""World of the simulator, the same for all seeds: documents, queries, true grades, and the results of retrievers."""

import math
import random
from collections import Counter
from functools import cache
from typing import NamedTuple

from producers.simulation.behaviour import IMAGE_URI, MAX_DEPTH_SHOWN, TEXT_URI
from producers.simulation.catalogue import CATEGORIES, INTENTS_PER_CATEGORY, intent_texts
from producers.simulation.features import Features, draw_features

WORLD_SEED = 2008
DOCUMENTS_PER_CATEGORY = 50
ZIPF_EXPONENT = 1.0
ORDERINGS = 4
"""Orderings of one retriever for one query. Each execution shows one of them, drawn uniformly."""

_DOCUMENTS_BY_GRADE = ((4, 3), (3, 5), (2, 8), (1, 12))
"""Grades and how many documents of a category have them for a query; the others have grade 0."""
_REFORMULATION_NOISE = 0.3
_ORDERING_NOISE = 0.6
_FULL_LISTS = 0.7
_SHORTEST_LIST = 3


class Document(NamedTuple):
    """Product of the shop."""

    id: str
    category: str
    price: float


class Query(NamedTuple):
    """Query: its text, intent and probability, and the grades, from 1 to 4, of its relevant documents by id."""

    text: str
    intent: int
    probability: float
    grades: dict[str, int]


class Retriever(NamedTuple):
    """Retriever: the noise of its scores, its share of queries without results, its share of results by image."""

    name: str
    noise: float
    without_results: float
    by_image: float | None
    """None for a retriever without embeddings, whose results have no `feature_uri`."""


class Ranked(NamedTuple):
    """Document in an ordering. `propensity` is the share of the orderings in which it has this position."""

    document: Document
    grade: int
    score: float
    feature_uri: str | None
    propensity: float


Ordering = tuple[Ranked, ...]

RETRIEVERS = (
    Retriever("hybrid", 0.5, 0.0, 0.5),
    Retriever("dense", 1.0, 0.02, 0.7),
    Retriever("keyword", 1.7, 0.12, None),
)


class World(NamedTuple):
    """Fixed facts of the simulation."""

    documents: tuple[Document, ...]
    queries: tuple[Query, ...]
    intents: tuple[tuple[int, ...], ...]
    """Numbers of the queries of each intent."""
    orderings: tuple[tuple[tuple[Ordering, ...], ...], ...]
    """Orderings by number of retriever and number of query; none where the retriever finds nothing."""
    features: tuple[dict[str, Features], ...]
    """Features of the documents of a query's category, by number of query and id of the document."""


@cache
def the_world() -> World:
    """Return the world, which is built at the first call."""
    source = random.Random(WORLD_SEED)
    documents, queries, intents = list[Document](), list[Query](), list[tuple[int, ...]]()
    found: list[list[tuple[Ordering, ...]]] = [[] for _ in RETRIEVERS]
    stocks = list[tuple[list[str], list[list[float]]]]()
    texts = [intent_texts(each, number) for each in CATEGORIES for number in range(INTENTS_PER_CATEGORY)]
    chances = _zipf(sum(map(len, texts)), source)
    for number, category in enumerate(CATEGORIES):
        stock = [
            Document(f"doc-{number * DOCUMENTS_PER_CATEGORY + each}", category.name, _price(category.price, source))
            for each in range(DOCUMENTS_PER_CATEGORY)
        ]
        documents += stock
        relevances = list[list[float]]()
        stocks.append(([document.id for document in stock], relevances))
        for _ in range(INTENTS_PER_CATEGORY):
            intent = len(intents)
            intents.append(tuple(range(len(queries), len(queries) + len(texts[intent]))))
            meant = [source.gauss(0, 1) for _ in stock]
            for text in texts[intent]:
                relevance = [each + source.gauss(0, _REFORMULATION_NOISE) for each in meant]
                relevances.append(relevance)
                grades = _grades(relevance)
                relevant = {stock[index].id: grade for index, grade in enumerate(grades) if grade}
                queries.append(Query(text, intent, chances[len(queries)], relevant))
                for lists, retriever in zip(found, RETRIEVERS, strict=True):
                    lists.append(_retrieve(retriever, stock, relevance, grades, source))
    return World(
        tuple(documents), tuple(queries), tuple(intents), tuple(map(tuple, found)), tuple(draw_features(stocks))
    )


def _zipf(count: int, source: random.Random) -> list[float]:
    """Return Zipf probabilities in random order: that of rank r is proportional to r^-ZIPF_EXPONENT."""
    weights = [rank**-ZIPF_EXPONENT for rank in range(1, count + 1)]
    total = sum(weights)
    source.shuffle(weights)
    return [weight / total for weight in weights]


def _price(typical: float, source: random.Random) -> float:
    return round(typical * math.exp(source.gauss(0, 0.4)), 2)


def _grades(relevance: list[float]) -> list[int]:
    grades = [0] * len(relevance)
    best_first = iter(sorted(range(len(relevance)), key=lambda index: -relevance[index]))
    for grade, count in _DOCUMENTS_BY_GRADE:
        for _ in range(count):
            grades[next(best_first)] = grade
    return grades


def _retrieve(
    retriever: Retriever, stock: list[Document], relevance: list[float], grades: list[int], source: random.Random
) -> tuple[Ordering, ...]:
    """Return the orderings of a retriever for a query: the best by its noisy score, then shuffled a little."""
    scores = [each + source.gauss(0, retriever.noise) for each in relevance]
    by_image = [source.random() for _ in stock]
    size = MAX_DEPTH_SHOWN if source.random() < _FULL_LISTS else source.randint(_SHORTEST_LIST, MAX_DEPTH_SHOWN - 1)
    if source.random() < retriever.without_results:
        return ()
    best = sorted(range(len(stock)), key=lambda index: -scores[index])[:size]
    orders = [best]
    for _ in range(ORDERINGS - 1):
        moved = {index: scores[index] + source.gauss(0, _ORDERING_NOISE) for index in best}
        orders.append(sorted(best, key=lambda index: -moved[index]))
    occurrences = Counter(place for order in orders for place in enumerate(order))

    def ranked(position: int, index: int) -> Ranked:
        uri = None if retriever.by_image is None else IMAGE_URI if by_image[index] < retriever.by_image else TEXT_URI
        score = round(1 / (1 + math.exp(-scores[index])), 4)
        return Ranked(stock[index], grades[index], score, uri, occurrences[position, index] / ORDERINGS)

    return tuple(tuple(ranked(position, index) for position, index in enumerate(order)) for order in orders)
