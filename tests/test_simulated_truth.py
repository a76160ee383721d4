"""The truth of the simulator: a long run agrees with the metrics that are enumerated."""

import itertools
import json
import math
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from producers.simulation.expected import expected_ndcg
from producers.simulation.simulator import Simulator
from producers.simulation.timeline import Backfill
from producers.simulation.truth import truth_of
from producers.simulation.world import RETRIEVERS
from runtime.errors import TallyError
from tally.cli.simulate import _check_writable, _write_truth
from tests.analytics_reference import (
    Estimate,
    Observed,
    click_through_by_position,
    dated,
    executions_of,
    metrics_of,
    ms_to_first_click,
)

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
SIGMAS = 5
FEWEST = 200
"""Smallest number of executions with which a mean is compared."""
LIFTED = {"dense": 1.3}
DAYS, RATE = 14, 0.1


@cache
def run(lifted: bool) -> tuple[dict[str, Any], list[Observed]]:
    """Return the truth and the executions of a long run."""
    backfill = Backfill(DAYS, RATE)
    simulator = Simulator(
        20, duplicates=0.03, clock=lambda: NOON, lifts=LIFTED if lifted else {}, backfill=backfill, users=500
    )
    executions = executions_of(dated(simulator))
    return truth_of(simulator), executions


def agrees(found: Estimate, expected: float | None) -> bool:
    assert expected is not None
    return abs(found.mean - expected) <= SIGMAS * found.error


@pytest.mark.parametrize("lifted", [False, True])
def test_every_metric_of_a_long_run_agrees_with_the_truth(lifted: bool) -> None:
    truth, executions = run(lifted)
    expected = truth["expected"]
    groups = {"overall": executions} | {
        each.name: [one for one in executions if one.retriever_id == each.name] for each in RETRIEVERS
    }
    for name, group in groups.items():
        wanted = expected["overall"] if name == "overall" else expected["retrievers"][name]
        for metric, found in metrics_of(group).items():
            if metric != "carts":
                assert found.size > FEWEST
                assert agrees(found, wanted[metric]), (name, metric, found, wanted[metric])
    carts = metrics_of(executions)["carts"]
    assert agrees(carts, expected["funnel"]["add_to_cart"])


@pytest.mark.parametrize("factor", [0.0, 10.0])
def test_the_truth_is_finite_at_the_bounds_of_lifts(factor: float, tmp_path: Path) -> None:
    """A result that is always clicked, and one that never is, have metrics."""
    simulator = Simulator(1, users=3, lifts={each.name: factor for each in RETRIEVERS})
    _write_truth(simulator, tmp_path / "truth.json")
    overall = json.loads((tmp_path / "truth.json").read_text())["expected"]["overall"]
    assert (overall["mrr"] > 0.5) == bool(factor)
    assert (overall["median_ms_to_first_click"] is None) == (not factor)


def test_a_truth_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(TallyError, match="--truth /dev/full: No space left on device"):
        _write_truth(Simulator(1), Path("/dev/full"))
    _check_writable(tmp_path / "truth.json")
    assert not list(tmp_path.iterdir())


def test_click_through_by_position_agrees_with_the_truth() -> None:
    truth, executions = run(False)
    expected = truth["expected"]
    for retriever in RETRIEVERS:
        found = click_through_by_position(each for each in executions if each.retriever_id == retriever.name)
        wanted = expected["retrievers"][retriever.name]["positions"]
        assert all(agrees(each, wanted[position]["ctr"]) for position, each in found.items() if each.size > FEWEST)
    impressions = sum(len(each.shown) for each in executions) / len(executions)
    assert impressions == pytest.approx(
        sum(each["impressions_per_execution"] for each in expected["positions"]), rel=0.02
    )


@pytest.mark.parametrize(("group", "attribute"), [("devices", "device"), ("queries", "query")])
def test_metrics_of_devices_and_queries_agree_with_the_truth(group: str, attribute: str) -> None:
    truth, executions = run(False)
    compared = 0
    for name, wanted in truth["expected"][group].items():
        of_group = [each for each in executions if getattr(each, attribute) == name]
        if len(of_group) > FEWEST:
            compared += 1
            found = metrics_of(of_group)
            for metric in ("ctr", "mrr", "abandonment", "refinement_rate"):
                assert agrees(found[metric], wanted[metric]), (name, metric, found[metric], wanted[metric])
            share = len(of_group) / len(executions)
            assert share == pytest.approx(wanted["share"], abs=0.03)
    assert compared >= 3


def test_documents_are_shown_and_clicked_as_the_truth_says() -> None:
    truth, executions = run(False)
    expected = truth["expected"]["documents"]
    shown = {document for each in executions for document in each.shown}
    assert shown <= set(expected)
    most = max(expected, key=lambda name: expected[name]["impressions_per_execution"])
    found = sum(most in each.shown for each in executions)
    clicked = sum(most in each.clicked for each in executions)
    assert found / len(executions) == pytest.approx(expected[most]["impressions_per_execution"], rel=0.15)
    rate = expected[most]["ctr"]
    assert abs(clicked - found * rate) < SIGMAS * math.sqrt(2 * found * rate * (1 - rate))


def test_half_of_the_first_clicks_come_before_the_true_median() -> None:
    truth, executions = run(False)
    found = ms_to_first_click(executions)
    before = sum(ms < truth["expected"]["overall"]["median_ms_to_first_click"] for ms in found)
    assert abs(before - len(found) / 2) < SIGMAS * math.sqrt(len(found)) / 2


def test_executions_and_events_of_a_session_agree_with_the_truth() -> None:
    truth, executions = run(False)
    sessions = len({each.session_id for each in executions})
    assert len(executions) / sessions == pytest.approx(truth["expected"]["executions_per_session"], rel=0.02)
    assert truth["emitted"]["events"] == pytest.approx(DAYS * 86_400 * RATE, rel=0.05)
    assert truth["emitted"]["duplicates"] / truth["emitted"]["events"] == pytest.approx(0.03, abs=0.002)


def test_a_lift_changes_its_retriever_alone() -> None:
    plain, lifted = (run(each)[0]["expected"]["retrievers"] for each in (False, True))
    for metric in ("ctr", "mean_clicks", "mrr", "conversion", "reward_per_execution"):
        assert lifted["dense"][metric] > plain["dense"][metric]
    for name in ("hybrid", "keyword"):
        assert lifted[name] | {"share": 0} == plain[name] | {"share": 0}
    assert plain["hybrid"]["ctr"] > plain["dense"]["ctr"] > plain["keyword"]["ctr"], "their known quality"


def ndcg_by_enumeration(chances: list[float]) -> float:
    """Expected nDCG@10 as the sum over all patterns of clicks."""
    total = 0.0
    for pattern in itertools.product((0, 1), repeat=len(chances)):
        clicks = sum(pattern)
        if clicks:
            probability = math.prod(p if hit else 1 - p for p, hit in zip(chances, pattern, strict=True))
            gained = sum(hit / math.log2(place + 2) for place, hit in enumerate(pattern[:10]))
            total += probability * gained / sum(1 / math.log2(place + 2) for place in range(min(clicks, 10)))
    return total


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
@settings(max_examples=20, deadline=None)
def test_the_expected_ndcg_equals_the_sum_over_all_patterns_of_clicks(chances: list[float]) -> None:
    assert float(expected_ndcg(np.array(chances))) == pytest.approx(ndcg_by_enumeration(chances))
