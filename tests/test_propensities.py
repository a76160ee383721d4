"""Propensities from stored events: against the truth of the simulator, with deletions, repeats and bad logs."""

import itertools
from collections.abc import Iterable
from typing import Any

import pytest

from learning.estimators.curve import PropensityCurve, PropensityMethod
from learning.propensities import estimate
from learning.scope import Refusal
from producers.simulation.behaviour import DEVICES
from producers.simulation.simulator import Simulator
from runtime.deletions import Deletion, Deletions
from schemas.interaction import Interaction
from tests.analytics.loading import load
from tests.lab import Lab
from tests.learning.logs import scope_of

EVENTS = 60_000
SIGMAS = 4
REPLICATES = 50
METHODS: tuple[PropensityMethod, ...] = ("em", "harvesting", "randomised")


async def curves(
    lab: Lab, namespace: str, retriever: str = "r", *path: str, method: PropensityMethod = "harvesting"
) -> list[PropensityCurve]:
    """Estimate the curves of all events of a namespace."""
    return await estimate(
        lab.settings, lab.database, scope_of(retriever, *path, namespace=namespace), method, REPLICATES
    )


def simulated(seed: int = 5, events: int = EVENTS) -> list[Interaction]:
    return list(itertools.islice(Simulator(seed, duplicates=0), events))


@pytest.fixture(scope="module")
async def searches(shared_lab: Lab) -> str:
    """Load simulated searches and return their namespace."""
    await load(shared_lab.database, "searches", simulated())
    return "searches"


@pytest.mark.parametrize("method", ["em", "harvesting"])
async def test_the_examination_of_each_device_is_found(
    shared_lab: Lab, searches: str, method: PropensityMethod
) -> None:
    found = await curves(shared_lab, searches, "hybrid", "device", method=method)
    assert [curve.segment for curve in found] == sorted(device.name for device in DEVICES)
    for device in DEVICES:
        curve = next(curve for curve in found if curve.segment == device.name)
        assert [point.position for point in curve.points] == list(range(device.depth))
        for point in curve.points[1:]:
            if point.value is None:
                assert point.reason
                continue
            assert point.low is not None and point.high is not None
            ratio = (point.high / point.low) ** (SIGMAS / 3.92)
            assert point.value / ratio < device.examination(point.position) < point.value * ratio
    assert sum(point.value is not None for curve in found for point in curve.points) > 15


async def test_slots_of_the_simulator_are_not_randomised(shared_lab: Lab, searches: str) -> None:
    with pytest.raises(Refusal, match=r"\d+% of the weighted impressions at position 1 are of documents never shown"):
        await curves(shared_lab, searches, "hybrid", method="randomised")


def result(
    execution: int, document: str, position: int, *, clicked: bool = False, **fields: Any
) -> Iterable[Interaction]:
    """Yield the impression of a result, and its click."""
    about = {"query_snapshot": {"text": "shoes"}, "retriever_id": "r", "user_id": f"u{execution % 10}", **fields}
    for kind in ("impression", "click")[: 1 + clicked]:
        yield Interaction(
            feature_id=document,
            interaction_type=[kind],  # type: ignore[list-item]
            position=position,
            execution_id=f"e{execution}",
            **about,
        )


def swapped(executions: int = 400, **fields: Any) -> list[Interaction]:
    """Return executions with two documents in either order; half of the first, a quarter of the second are clicked."""
    events = list[Interaction]()
    for number in range(executions):
        order = ("a", "b") if number % 2 else ("b", "a")
        clicks = number // 2 % 2 == 0, number // 2 % 4 == 0
        for position, (document, clicked) in enumerate(zip(order, clicks, strict=True)):
            events += result(number, document, position, clicked=clicked, **fields)
    return events


@pytest.mark.parametrize("method", ["em", "harvesting", "randomised"])
async def test_each_method_finds_the_ratio_of_rates(lab: Lab, method: PropensityMethod) -> None:
    await load(lab.database, "default", swapped(metadata={"propensity": 0.5}))
    ((first, second),) = [curve.points for curve in await curves(lab, "default", method=method)]
    assert (first.impressions, first.clicks, first.items, first.value) == (400, 200, 2, 1.0)
    assert (second.impressions, second.clicks) == (400, 100)
    assert second.value == pytest.approx(0.5, rel=1e-5)


async def test_repeated_inserts_change_nothing_and_an_erased_user_leaves_no_trace(lab: Lab) -> None:
    events = [event.model_copy(update={"metadata": {"propensity": 0.5}}) for event in swapped()]
    others = [event for event in events if event.user_id != "u3"]
    await load(lab.database, "all", events)
    await load(lab.database, "others", others)
    before = {method: await curves(lab, "others", method=method) for method in METHODS}
    full = {method: await curves(lab, "all", method=method) for method in before}
    assert full != before
    await load(lab.database, "all", events)
    assert {method: await curves(lab, "all", method=method) for method in before} == full
    gone = [Deletion(f"int_{number:032x}", "all") for number, event in enumerate(events) if event.user_id == "u3"]
    await Deletions(lab.database).erase(gone)
    assert {method: await curves(lab, "all", method=method) for method in before} == before


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        ({}, r"80 of 80 shown results have no number in metadata.propensity"),
        ({"propensity": "high"}, r"80 of 80 shown results have no number"),
        ({"propensity": 0}, r"metadata.propensity of 80 of 80 shown results is not from 1e-12 to 1"),
        ({"propensity": 1.5}, r"is not from 1e-12 to 1"),
        ({"propensity": -0.5}, r"is not from 1e-12 to 1"),
    ],
)
async def test_slots_without_valid_propensities_are_refused(lab: Lab, metadata: dict[str, Any], says: str) -> None:
    await load(lab.database, "default", swapped(40, metadata=metadata))
    with pytest.raises(Refusal, match=says):
        await curves(lab, "default", method="randomised")


async def test_a_retriever_that_showed_nothing_is_refused(lab: Lab) -> None:
    with pytest.raises(Refusal, match="retriever 'nobody' of namespace default showed no results from"):
        await curves(lab, "default", "nobody")


async def test_hostile_texts_are_queries_and_segments_like_others(lab: Lab) -> None:
    text = "\u202e\u05e9\u05d5\x00\x1b[31m" + "x" * 65_000
    segment = "$a$\n\u202e\x1b]0;"
    events = swapped(120, query_snapshot={"text": text}, metadata={"a'b": segment})
    await load(lab.database, "default", events)
    (curve,) = await curves(lab, "default", "r", "a'b")
    assert curve.segment == segment
    assert curve.points[1].value == pytest.approx(0.5, rel=1e-5)


async def test_more_counts_than_the_setting_allows_are_refused(lab: Lab) -> None:
    await load(lab.database, "default", swapped(800))
    settings = lab.settings.model_copy(update={"learning_cells": 500})
    with pytest.raises(Refusal, match="raise TALLY_LEARNING_CELLS"):
        await estimate(settings, lab.database, scope_of("r"), "em", REPLICATES)
