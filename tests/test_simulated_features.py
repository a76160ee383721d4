"""Features of simulated results, from which a better ranking can be learned, and shuffled executions."""

import itertools
import math
import re
from collections import Counter, defaultdict
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest

from producers.simulation.behaviour import MAX_DEPTH_SHOWN
from producers.simulation.simulator import Simulator
from producers.simulation.truth import EXPECTED_LEFT_OUT, truth_of
from producers.simulation.world import RETRIEVERS, Ranked, the_world
from schemas.interaction import Interaction

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
NAMES = ("text_match", "image_match", "popularity")
DISCOUNTS = 1 / np.log2(np.arange(2, 12))
PAGE = Path(__file__).parent.parent / "docs" / "simulator.md"


def take(size: int, **options: Any) -> list[Interaction]:
    return list(itertools.islice(iter(Simulator(4, clock=lambda: NOON, duplicates=0, **options)), size))


def ndcg(grades: list[int]) -> float:
    """nDCG@10 with gains 2^grade - 1; the ideal order is one of the same results."""

    def gained(order: list[int]) -> float:
        gains = 2.0 ** np.array(order[:10]) - 1
        return float(gains @ DISCOUNTS[: len(gains)])

    return gained(grades) / gained(sorted(grades, reverse=True))


def features_of(query: int, ordering: tuple[Ranked, ...]) -> list[list[float]]:
    """Log odds of document_score and of the three features, for each result."""
    features = the_world().features[query]
    shares = np.array([[each.score, *features[each.document.id]] for each in ordering])
    clipped = np.clip(shares, 1e-4, 1 - 1e-4)
    return np.log(clipped / (1 - clipped)).tolist()  # type: ignore[no-any-return]


def quality(retriever: int) -> tuple[float, float, float]:
    """Mean nDCG@10 over queries: of the logged orderings, of document_score, and of a linear regression on all."""
    lists = [
        (features_of(query, orderings[0]), [each.grade for each in orderings[0]], orderings)
        for query, orderings in enumerate(the_world().orderings[retriever])
        if any(each.grade for each in (orderings or ((),))[0])
    ]
    logged = [ndcg([each.grade for each in ordering]) for _, _, orderings in lists for ordering in orderings]
    by_score, by_all = list[float](), list[float]()
    for fold in (0, 1):  # each half of the queries is ranked by what the other half taught
        taught = [each for number, each in enumerate(lists) if number % 2 != fold]
        matrix = np.array([[*row, 1.0] for rows, _, _ in taught for row in rows])
        weights = np.linalg.lstsq(matrix, np.array([grade for _, grades, _ in taught for grade in grades]))[0][:-1]
        for rows, grades, _ in lists[fold::2]:
            for found, scores in ((by_score, np.array(rows)[:, 0]), (by_all, np.array(rows) @ weights)):
                found.append(ndcg([grades[index] for index in np.argsort(-scores, kind="stable")]))
    return fmean(logged), fmean(by_score), fmean(by_all)


@pytest.mark.parametrize("name", ["hybrid", "dense"])
def test_features_and_score_rank_better_than_the_log_by_the_documented_measure(name: str) -> None:
    retriever = [each.name for each in RETRIEVERS].index(name)
    logged, by_score, by_all = quality(retriever)
    assert logged < by_score < by_all - 0.02
    row = re.search(rf"\| `{name}` \| ([0-9.]+) \| ([0-9.]+) \| ([0-9.]+) \|", PAGE.read_text())
    assert row
    assert [float(each) for each in row.groups()] == [round(each, 3) for each in (logged, by_score, by_all)]


def test_popularity_is_weakly_correlated_with_relevance() -> None:
    world, popularity, grades = the_world(), dict[str, float](), defaultdict[str, list[int]](list)
    for query, features in zip(world.queries, world.features, strict=True):
        for document, each in features.items():
            assert popularity.setdefault(document, each.popularity) == each.popularity, "one for each document"
            grades[document].append(query.grades.get(document, 0))
    found = np.corrcoef(list(popularity.values()), [fmean(each) for each in grades.values()])
    assert 0.15 < found[0, 1] < 0.45


def test_both_views_show_relevance_text_better_than_image() -> None:
    world = the_world()
    rows = [
        (query.grades.get(document, 0), each.text_match, each.image_match)
        for query, features in zip(world.queries, world.features, strict=True)
        for document, each in features.items()
    ]
    correlations = np.corrcoef(np.array(rows).T)
    assert 0.8 > correlations[0, 1] > correlations[0, 2] > 0.5
    assert correlations[1, 2] < correlations[0, 2]


def test_events_about_results_have_the_features_of_the_world() -> None:
    world = the_world()
    numbers = {query.text: number for number, query in enumerate(world.queries)}
    seen = 0
    for event in take(5_000):
        metadata = event.metadata or {}
        if event.execution_id and event.feature_id != "none":
            features = world.features[numbers[(event.query_snapshot or {})["text"]]][event.feature_id]
            assert {name: metadata[name] for name in NAMES} == features._asdict()
            assert all(0 < metadata[name] < 1 and round(metadata[name], 4) == metadata[name] for name in NAMES)
            seen += 1
        else:
            assert not set(NAMES) & set(metadata)
    assert seen > 4_000


def test_the_truth_has_the_features() -> None:
    truth, world = truth_of(Simulator(1)), the_world()
    for query, features in zip(truth["world"]["queries"], world.features, strict=True):
        assert query["features"] == {document: each._asdict() for document, each in features.items()}


def test_shuffled_executions_show_a_uniformly_random_order() -> None:
    executions = defaultdict[str, list[Interaction]](list)
    for event in take(60_000, shuffle=0.5):
        if event.execution_id:
            executions[event.execution_id].append(event)
    executions.popitem()  # it may be cut
    shuffled, positions = 0, Counter[int]()
    for events in executions.values():
        flags = {(event.metadata or {}).get("shuffled") for event in events}
        assert len(flags) == 1, "all events of an execution say so"
        shown = [event for event in events if event.interaction_type == ["impression"]]
        if flags == {True}:
            shuffled += 1
            assert sorted(event.position for event in shown) == list(range(len(shown)))
            assert {(event.metadata or {})["propensity"] for event in shown} <= {1 / max(len(shown), 1)}
            if len(shown) == MAX_DEPTH_SHOWN:
                best = max(shown, key=lambda event: event.document_score or 0)
                positions[best.position] += 1
    assert abs(shuffled / len(executions) - 0.5) < 5 * math.sqrt(0.25 / len(executions))
    size = positions.total()
    expected = size / MAX_DEPTH_SHOWN
    assert size > 300
    assert all(abs(positions[place] - expected) < 5 * math.sqrt(expected) for place in range(MAX_DEPTH_SHOWN))


def test_without_shuffling_no_event_says_so_and_with_it_the_truth_expects_nothing() -> None:
    assert not [event for event in take(3_000) if "shuffled" in (event.metadata or {})]
    truth = truth_of(Simulator(1, shuffle=0.1))
    assert (truth["expected"], truth["expected_left_out"]) == (None, EXPECTED_LEFT_OUT)
    assert truth["parameters"]["shuffle"] == 0.1
    assert truth_of(Simulator(1))["expected_left_out"] is None
