"""Judgments from counts: values computed by hand, laws, and the coverage of their intervals."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from learning.estimators.judging import (
    MIN_PROPENSITY,
    Floats,
    ItemEstimates,
    JudgedCells,
    click_through,
    clicks_over_expected,
    graded,
    grades_of,
    propensity_weighted,
)
from producers.simulation.behaviour import ATTRACTION, DEVICES
from producers.simulation.world import RETRIEVERS, the_world

Row = tuple[int, int, int, int, int]
"""Item, segment, position, impressions and clicks."""


def cells_of(rows: list[Row]) -> JudgedCells:
    item, segment, position, shown, clicked = np.array(rows, np.int64).reshape(-1, 5).T
    return JudgedCells(item, segment, position, shown, clicked, 1 + max((row[0] for row in rows), default=-1))


def harmonic(cells: JudgedCells) -> Any:
    """Return the propensity 1 / (position + 1) of each cell."""
    return 1 / (cells.position + 1.0)


def ends(found: ItemEstimates) -> tuple[Floats, Floats]:
    assert found.low is not None
    assert found.high is not None
    return found.low, found.high


METHODS: dict[str, Callable[[JudgedCells], ItemEstimates]] = {
    "ctr": click_through,
    "coec": clicks_over_expected,
    "ips": lambda cells: propensity_weighted(cells, harmonic(cells)),
    "graded": lambda cells: graded(cells, cells.totals(cells.clicks)),
}
counts = st.integers(0, 50).flatmap(lambda shown: st.tuples(st.just(shown), st.integers(0, shown)))
many_rows = st.lists(
    st.builds(lambda *places_and: (*places_and[:3], *places_and[3]), *[st.integers(0, 3)] * 3, counts), min_size=1
)


def test_click_through_is_shrunk_to_the_mean_of_all_items() -> None:
    found = click_through(cells_of([(0, 0, 0, 9, 3), (1, 0, 0, 2, 0)]), prior_strength=4)
    mean = 3.5 / 12
    assert found.value == pytest.approx([(3 + 4 * mean) / 13, 4 * mean / 6])
    low, high = ends(found)
    posterior = stats.beta(3 + 4 * mean, 6 + 4 * (1 - mean))
    assert (low[0], high[0]) == pytest.approx((posterior.ppf(0.025), posterior.ppf(0.975)))
    assert (found.effective_n.tolist(), found.clicks.tolist()) == ([9, 2], [3, 0])


def test_clicks_are_divided_by_those_of_average_results_at_the_same_positions_of_the_segment() -> None:
    rows = [(0, 0, 0, 10, 6), (1, 0, 0, 10, 2), (1, 0, 1, 20, 4), (2, 0, 1, 20, 0), (2, 1, 0, 5, 5)]
    found = clicks_over_expected(cells_of(rows))
    # Mean click-through: 0.4 and 0.1 in segment 0, 1 in segment 1.
    assert found.effective_n == pytest.approx([4, 6, 7])
    assert found.value == pytest.approx([6 / 4, 6 / 6, 5 / 7])
    low, high = ends(found)
    assert (low[0], high[0]) == pytest.approx((2.2019 / 4, 13.0595 / 4), rel=1e-4)  # Garwood's table, 6


def test_an_item_at_positions_that_nobody_clicked_has_no_clicks_over_expected() -> None:
    found = clicks_over_expected(cells_of([(0, 0, 0, 10, 6), (1, 0, 1, 20, 0)]))
    assert found.is_known.tolist() == [True, False]


def test_clicks_are_weighted_by_inverse_propensities_up_to_the_clip() -> None:
    cells = cells_of([(0, 0, 0, 10, 4), (0, 0, 3, 20, 1), (1, 0, 7, 3, 0), (2, 0, 3, 8, 1)])
    propensity = np.array([1.0, 0.25, 0.0, 0.25])
    found = propensity_weighted(cells, propensity, clip=2)
    # Weights 1 and 2; examined impressions 10 and 5.
    assert found.value[0] == pytest.approx((4 + 2 * 1) / (10 + 2 * 5))
    assert found.effective_n[0] == pytest.approx((10 + 2 * 5) ** 2 / (10 + 4 * 5))
    assert found.is_known.tolist() == [True, False, True]
    assert found.impressions.tolist() == [30, 0, 8]
    assert found.value[2] == pytest.approx(1 / 8 / 0.25)
    whole = stats.binomtest(1, 8).proportion_ci(method="wilson")
    low, high = ends(found)
    assert (low[2], high[2]) == pytest.approx((whole.low / 0.25, 1))
    unclipped = propensity_weighted(cells, propensity, clip=1e9)
    assert unclipped.value[0] == pytest.approx((4 + 4 * 1) / 30)


def test_grades_are_the_thresholds_that_the_highest_reward_reaches() -> None:
    rewards = np.array([-2, 0, 1e-6, 1, 1.5, 2, 2.99, 3, 5.0])
    cells = cells_of([(item, 0, 0, 1, 0) for item in range(len(rewards))])
    found = graded(cells, rewards)
    assert found.value.tolist() == [0, 0, 1, 1, 2, 3, 3, 4, 4]
    assert (found.low, found.high) == (None, None)
    assert graded(cells, rewards, (3, 4, 5)).value.tolist() == [0, 0, 1, 1, 1, 1, 1, 2, 4]


def test_rates_become_grades_relative_to_the_best_of_the_query() -> None:
    query, value = np.array([0, 0, 0, 1, 2, 2]), np.array([0.4, 0.16, 0.049, 0.0, 3.0, 0.1])
    assert grades_of(query, value).tolist() == [4, 2, 0, 0, 4, 0]
    assert grades_of(query, value, 5).tolist() == [5, 2, 1, 0, 5, 0]
    assert grades_of(query[:0], value[:0]).tolist() == []


@pytest.mark.parametrize("method", METHODS)
@given(rows=many_rows)
@settings(max_examples=50)
def test_values_are_finite_and_inside_their_intervals(method: str, rows: list[Row]) -> None:
    found = METHODS[method](cells_of(rows))
    low, high = (found.value, found.value) if found.low is None else ends(found)
    for values in (found.value, found.effective_n, low, high):
        assert np.isfinite(values).all()
        assert (values >= 0).all()
    assert (low <= found.value).all()
    assert (found.value <= high).all()
    if method in ("ctr", "ips"):
        assert (low <= 1).all()
        assert ((high <= 1) | ((method == "ips") & (high == found.value))).all()


@pytest.mark.parametrize("method", METHODS)
@given(rows=many_rows, data=st.data())
@settings(max_examples=30)
def test_the_order_of_cells_is_irrelevant(method: str, rows: list[Row], data: st.DataObject) -> None:
    other = METHODS[method](cells_of(data.draw(st.permutations(rows))))
    for here, there in zip(METHODS[method](cells_of(rows)), other, strict=True):
        assert here is there is None or here == pytest.approx(there)


@pytest.mark.parametrize("method", ["ctr", "ips", "graded"])
@given(rows=many_rows, data=st.data())
@settings(max_examples=50)
def test_a_further_click_never_lowers_a_value(method: str, rows: list[Row], data: st.DataObject) -> None:
    number = data.draw(st.integers(0, len(rows) - 1))
    item, segment, position, shown, clicked = rows[number]
    clicked_more = [*rows[:number], (item, segment, position, shown, min(clicked + 1, shown)), *rows[number + 1 :]]
    before, after = METHODS[method](cells_of(rows)), METHODS[method](cells_of(clicked_more))
    assert after.value[item] >= before.value[item] - 1e-12


@given(rows=many_rows)
@settings(max_examples=50)
def test_weighting_by_equal_propensities_is_click_through_without_a_prior(rows: list[Row]) -> None:
    cells = cells_of(rows)
    weighted, smoothed = propensity_weighted(cells, np.ones(len(rows))), click_through(cells, 1e-9)
    assert weighted.value[weighted.is_known] == pytest.approx(smoothed.value[weighted.is_known], abs=1e-8)
    assert weighted.effective_n == pytest.approx(smoothed.effective_n)


@given(rows=many_rows, factor=st.integers(2, 9))
@settings(max_examples=50)
def test_values_scale_with_propensities_and_not_with_counts(rows: list[Row], factor: int) -> None:
    cells = cells_of(rows)
    value = propensity_weighted(cells, harmonic(cells), 1e9).value
    assert propensity_weighted(cells, harmonic(cells) / factor, 1e9).value == pytest.approx(factor * value)
    more = cells._replace(impressions=factor * cells.impressions, clicks=factor * cells.clicks)
    assert propensity_weighted(more, harmonic(cells), 1e9).value == pytest.approx(value)
    assert clicks_over_expected(more).value == pytest.approx(clicks_over_expected(cells).value)


@pytest.mark.parametrize("propensity", [0.0, -1.0, 5e-324, MIN_PROPENSITY / 2, math.nan])
def test_impressions_at_positions_without_a_known_propensity_are_left_out(propensity: float) -> None:
    cells = cells_of([(0, 0, 0, 10, 4), (0, 0, 9, 10, 1), (1, 0, 9, 10, 1)])
    found = propensity_weighted(cells, np.array([1.0, propensity, propensity]), clip=1e9)
    assert (found.value.tolist(), found.is_known.tolist()) == ([0.4, 0.0], [True, False])


@pytest.mark.parametrize("method", METHODS)
def test_nothing_gives_nothing(method: str) -> None:
    assert len(METHODS[method](cells_of([])).value) == 0


@pytest.mark.parametrize("clip", [1.0, 3.0, 100.0])
@pytest.mark.parametrize("attraction", [0.05, 0.3, 0.9])
def test_intervals_of_weighted_clicks_hold_the_truth(clip: float, attraction: float) -> None:
    samples, positions, shown = 4_000, 8, 60
    item, position = np.divmod(np.arange(samples * positions), positions)
    propensity = 1 / (position + 1.0)
    clicks = np.random.default_rng(7).binomial(shown, propensity * attraction)
    cells = JudgedCells(item, 0 * item, position, 0 * item + shown, clicks, samples)
    found = propensity_weighted(cells, propensity, clip)
    low, high = ends(found)
    held = float(((low <= attraction) & (attraction <= high)).mean())
    assert 0.93 <= held <= 0.98
    assert float(found.value.mean()) == pytest.approx(attraction, rel=0.02)  # unbiased, whatever the clip


def rank_correlations(retriever: int, executions: int) -> dict[str, float]:
    """Return the rank correlations of values with true attraction, for the results of a simulated retriever."""
    world, source = the_world(), np.random.default_rng(5)
    cells: dict[tuple[int, int, int], list[int]] = {}
    propensity: dict[tuple[int, int], float] = {}
    truth, numbers = list[float](), dict[tuple[str, str], int]()
    for query, orderings in zip(world.queries, world.orderings[retriever], strict=True):
        for segment, device in enumerate(DEVICES):
            for ordering in orderings:
                shown = int(source.poisson(executions * query.probability * device.share / len(orderings)))
                for position, ranked in enumerate(ordering[: device.depth]):
                    item = numbers.setdefault((query.text, ranked.document.id), len(numbers))
                    if item == len(truth):
                        truth.append(ATTRACTION[ranked.grade])
                    propensity[segment, position] = device.examination(position)
                    clicks = int(source.binomial(shown, ATTRACTION[ranked.grade] * propensity[segment, position]))
                    cell = cells.setdefault((item, segment, position), [0, 0])
                    cell[0] += shown
                    cell[1] += clicks
    counted = cells_of([(*place, shown, clicks) for place, (shown, clicks) in cells.items()])
    theta = np.array([propensity[segment, position] for _, segment, position in cells])
    estimates = {"ctr": click_through(counted), "ips": propensity_weighted(counted, theta)}
    often = estimates["ctr"].impressions >= 200
    return {
        name: float(stats.spearmanr(found.value[often], np.array(truth)[often]).statistic)
        for name, found in estimates.items()
    }


@pytest.mark.parametrize("retriever", range(len(RETRIEVERS)))
def test_weighting_removes_position_bias(retriever: int) -> None:
    found = rank_correlations(retriever, 1_000_000)
    assert found["ips"] > 0.95
    assert found["ips"] > found["ctr"] + 0.02
