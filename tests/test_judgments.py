"""Judgments of stored events: values, order, refusals, position bias, deletions and duplicates."""

import uuid
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learning.judgments import JudgmentMethod, JudgmentRequest, Judgments
from learning.scope import Refusal, ScopeError
from producers.simulation.behaviour import ATTRACTION
from producers.simulation.world import the_world
from runtime.deletions import Deletion, Deletions
from schemas.interaction import Interaction
from schemas.rewards import parse_rewards
from tests.analytics.loading import load
from tests.judgments_lab import curve_of, curves_of, judged, shown, simulated
from tests.lab import Lab

METHODS: tuple[JudgmentMethod, ...] = ("ctr", "coec", "ips", "graded")
DEVICE = ("device",)


async def stored(lab: Lab, namespace: str, *results: Iterable[Interaction]) -> None:
    """Store the events of results."""
    await load(lab.database, namespace, [event for result in results for event in result])


def small(found: Judgments) -> list[tuple[Any, ...]]:
    return [(row.query, row.document, row.impressions, row.clicks) for row in found.rows()]


async def test_items_are_counted_over_executions_and_positions(shared_lab: Lab) -> None:
    await stored(
        shared_lab,
        "counted",
        shown("Red  Shoes", "a", "e1", "click"),
        shown("red shoes", "b", "e1", position=1),
        shown("red shoes", "b", "e2", "click", "click", "view"),
        shown("red shoes", "a", "e2", position=1),
        shown("hat", "b", "e3"),
        [*shown("red shoes", "a", "e4", "click", position=2)][1:],  # a click without an impression
        shown("hat", "c", "e5", retriever_id="other"),
    )
    found = await judged(shared_lab, "counted", "r")
    assert small(found) == [("hat", "b", 1, 0), ("red shoes", "a", 2, 1), ("red shoes", "b", 2, 1)]
    assert found.notes == []
    found = await judged(shared_lab, "counted", "r", "coec")
    # Click-through is 2/3 at position 0 and 0 at position 1.
    assert [row.value for row in found.rows()] == pytest.approx([0, 1.5, 1.5])
    found = await judged(shared_lab, "counted", "r", "ips", curves=curves_of(curve_of([1, 0.5])))
    assert [row.value for row in found.rows()] == pytest.approx([0, 0.5, 0.5])
    found = await judged(shared_lab, "counted", "r", min_impressions=2)
    assert (len(found), found.notes) == (2, ["1 item with fewer than 2 impressions is left out"])


async def test_grades_are_of_the_highest_reward_by_the_map(shared_lab: Lab) -> None:
    await stored(
        shared_lab,
        "rewards",
        shown("q", "a", "e1", "click"),
        shown("q", "a", "e2", "click", "purchase"),
        shown("q", "b", "e1", "click", "negative_feedback"),
        shown("q", "c", "e1", "negative_feedback"),
        shown("q", "d", "e1", "share", "click"),
    )
    found = await judged(shared_lab, "rewards", "r", "graded")
    assert [(row.document, row.grade, row.low) for row in found.rows()] == [
        *(("a", 4, None), ("d", 2, None), ("b", 1, None), ("c", 0, None))
    ]
    rewards = parse_rewards("negative_feedback=1.9,click=0.1")
    found = await judged(shared_lab, "rewards", "r", "graded", rewards=rewards)
    assert [(row.document, row.grade) for row in found.rows()] == [("b", 2), ("c", 2), ("a", 1), ("d", 1)]
    for rewards in (parse_rewards("{}"), parse_rewards("purchase=3", 0.5)):
        found = await judged(shared_lab, "rewards", "r", "graded", rewards=rewards, thresholds=(1, 2, 3))
        assert max(row.grade for row in found.rows()) <= 1


async def test_segments_have_propensities_and_mean_click_through_of_their_own(shared_lab: Lab) -> None:
    ios, desktop = ({"metadata": {"device": name}, "position": 1} for name in ("ios", "desktop"))
    await stored(
        shared_lab,
        "segments",
        shown("q", "a", "e1", "click", **ios),
        shown("q", "b", "e2", **ios),
        shown("q", "a", "e3", "click", **desktop),
        shown("q", "b", "e4", "click", **desktop),
    )
    found = await judged(shared_lab, "segments", "r", "coec", by=DEVICE)
    assert [row.value for row in found.rows()] == pytest.approx([2 / 1.5, 1 / 1.5])
    curves = curves_of(curve_of([1, 0.1], "ios"), curve_of([1, 0.8], "desktop"))
    found = await judged(shared_lab, "segments", "r", "ips", by=DEVICE, curves=curves, clip=2)
    assert [row.value for row in found.rows()] == pytest.approx([3.25 / 1.2, 1.25 / 1.2])
    found = await judged(shared_lab, "segments", "r", "ips", by=DEVICE, curves=curves_of(curve_of([1, 0.8], "ios")))
    assert found.notes == ["2 impressions at positions without a known propensity are left out"]
    with pytest.raises(Refusal, match="no item can be judged; 4 impressions at positions without a known propensity"):
        await judged(shared_lab, "segments", "r", "ips", curves=curves)


async def test_missing_evidence_is_refused(shared_lab: Lab) -> None:
    await stored(shared_lab, "silent", shown(None, "a", "e1", "click"), shown("", "b", "e2"))
    await stored(shared_lab, "unclicked", shown("q", "a", "e1"), shown("q", "b", "e1", position=7))
    await stored(shared_lab, "clicked", [*shown("q", "a", "e1", "click")][1:])
    for namespace, method, says in (
        ("silent", "ctr", r"no execution of retriever 'r' of namespace silent has a query text at query_snapshot.text"),
        ("unclicked", "coec", "no item can be judged; 2 items shown only at positions without any click are left out"),
        ("clicked", "ctr", "retriever 'r' of namespace clicked showed no results from .*: only results with an impr"),
        ("nowhere", "graded", "showed no results"),
    ):
        with pytest.raises(Refusal, match=says):
            await judged(shared_lab, namespace, "r", method)  # type: ignore[arg-type]
    assert [row.value for row in (await judged(shared_lab, "unclicked", "r")).rows()] == pytest.approx(
        [1 / 6 * 10 / 11] * 2
    )


@pytest.mark.parametrize("thresholds", [(), (1, 2), (1, 2, 3, 4), (3, 2, 1), (0, 1, 2), (1, 2, float("inf"))])
def test_thresholds_are_three_ascending_numbers(thresholds: tuple[float, ...]) -> None:
    with pytest.raises(ScopeError, match="three numbers above 0"):
        JudgmentRequest("graded", thresholds=thresholds).checked()


async def test_more_than_the_bounds_is_refused(lab: Lab) -> None:
    many = [shown("q", f"doc-{number}", f"e{number}", position=number % 7) for number in range(1_001)]
    await stored(lab, "default", *many, shown("x" * 60_000, "a", "e"))
    small_cells = lab.settings.model_copy(update={"learning_cells": 1_000})
    small_texts = lab.settings.model_copy(update={"learning_text_bytes": 50_000})
    for limited, setting in ((small_cells, "TALLY_LEARNING_CELLS"), (small_texts, "TALLY_LEARNING_TEXT_BYTES")):
        with pytest.raises(Refusal, match=setting):
            await judged(Lab(limited, lab.database, lab._raw), "default", "r")
    assert len(await judged(lab, "default", "r")) == 1_002


async def test_segments_are_bounded(shared_lab: Lab) -> None:
    many = [shown("q", "a", f"e{number}", metadata={"device": f"d{number}"}) for number in range(1_001)]
    await stored(shared_lab, "segmented", *many)
    with pytest.raises(Refusal, match="more than 1,000 values"):
        await judged(shared_lab, "segmented", "r", by=DEVICE)
    assert small(await judged(shared_lab, "segmented", "r")) == [("q", "a", 1_001, 0)]


HOSTILE = [
    "\u202egnp.exe",
    "\x00\x1b[31m",
    "a\u2028b\x85c\x0bd",
    "🏴\u200d☠️",
    "\ud7ff\ufffe",
    "x" * 30_000,
    "'; DROP TABLE",
]


async def test_hostile_texts_come_out_as_they_are_stored(shared_lab: Lab) -> None:
    await stored(shared_lab, "hostile", *(shown(text, text[:100], f"e{number}") for number, text in enumerate(HOSTILE)))
    found = await judged(shared_lab, "hostile", "r")
    assert {row.document for row in found.rows()} == {text[:100] for text in HOSTILE}
    rows = [row.query for row in found.rows()]
    assert rows == sorted(rows)
    assert len(rows) == len(HOSTILE)


@pytest.fixture(scope="module")
async def two_days(shared_lab: Lab) -> Lab:
    """Tables with the simulated namespace `two-days`."""
    await load(shared_lab.database, "two-days", simulated(days=2, rate=0.15))
    return shared_lab


async def test_intervals_of_weighted_clicks_hold_the_true_attraction_and_those_of_others_do_not(two_days: Lab) -> None:
    """Shares of items: 95 % are expected of a method without position bias."""
    grades = {query.text: query.grades for query in the_world().queries}

    async def held(method: JudgmentMethod) -> float:
        found = await judged(two_days, "two-days", "hybrid", method, by=DEVICE, min_impressions=10)
        holds = [
            row.low is not None
            and row.high is not None
            and row.low <= ATTRACTION[grades[row.query].get(row.document, 0)] <= row.high
            for row in found.rows()
        ]
        assert len(holds) > 100
        return sum(holds) / len(holds)

    assert await held("ips") > 0.92
    assert await held("ctr") < 0.75
    assert await held("coec") < 0.85


async def test_judgments_are_in_order_and_repeat_to_the_last_digit(two_days: Lab) -> None:
    for method in METHODS:
        found = await judged(two_days, "two-days", "dense", method, by=DEVICE)
        rows = list(found.rows())
        assert rows == sorted(rows, key=lambda row: (row.query, -row.value, row.document))
        assert list((await judged(two_days, "two-days", "dense", method, by=DEVICE)).rows()) == rows
        assert max(row.grade for row in rows) == 4


LITTLE = list(simulated(days=0.25, rate=0.1))
USERS = sorted({event.user_id for event in LITTLE if event.user_id})


async def all_judgments(lab: Lab, namespace: str) -> list[Any]:
    return [
        list((await judged(lab, namespace, retriever, method, by=DEVICE)).rows())
        for retriever in ("hybrid", "dense")
        for method in METHODS
    ]


@given(erased=st.sets(st.sampled_from(USERS), min_size=1))
@settings(max_examples=4)
async def test_erased_users_leave_no_trace(shared_lab: Lab, erased: set[str]) -> None:
    """Judgments after an erasure are those of a log without these users."""
    before, without = (f"{name}-{uuid.uuid4().hex[:8]}" for name in ("erased", "without"))
    await load(shared_lab.database, before, LITTLE)
    await load(shared_lab.database, without, [event for event in LITTLE if event.user_id not in erased])
    ids = await shared_lab.database.rows(
        "SELECT interaction_id FROM interactions WHERE namespace = {ns:String} AND user_id IN {users:Array(String)}",
        {"ns": before, "users": sorted(erased)},
    )
    assert ids
    await Deletions(shared_lab.database).erase(Deletion(name, before) for (name,) in ids)
    assert await all_judgments(shared_lab, before) == await all_judgments(shared_lab, without)


async def test_inserting_events_again_changes_nothing(shared_lab: Lab) -> None:
    await load(shared_lab.database, "repeated", LITTLE)
    once = await all_judgments(shared_lab, "repeated")
    await load(shared_lab.database, "repeated", LITTLE[: len(LITTLE) // 2])
    assert await all_judgments(shared_lab, "repeated") == once
