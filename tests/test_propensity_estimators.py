"""Estimators of propensities: laws, closed forms, an independent EM, and logs that cannot say."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learning.counts import BUCKETS, ClickCounts
from learning.estimators import harvesting, position_model, randomised
from learning.estimators.bootstrap import bootstrapped
from learning.estimators.cells import Floats, ItemCells, cells_of_rows, seen_elsewhere
from learning.estimators.curve import PropensityCurve, PropensityMethod
from learning.propensities import MAX_POSITIONS, curves_of
from learning.scope import Refusal
from producers.simulation.behaviour import DEVICES
from tests.learning.__main__ import findings, parsed, run
from tests.learning.drawn import drawn
from tests.learning.logs import REFUSED, counts_of

MODELS = {"em": position_model.log_propensities, "harvesting": harvesting.log_propensities}
METHODS: tuple[PropensityMethod, ...] = ("em", "harvesting")

Row = tuple[int, int, int, int, int]
"""Item, position, bucket, impressions and clicks."""


def curve_of(rows: list[Row], method: PropensityMethod = "em", **options: Any) -> PropensityCurve:
    """Return the curve of the only segment."""
    (curve,) = curves_of({"": counts_of(rows, options.pop("propensity", None))}, method, 50, **options)
    return curve


def relative(logs: Floats) -> Floats:
    """Return values relative to the first one."""
    return np.asarray(np.exp(logs - logs[0]))


def plain_em(cells: ItemCells, n: Floats, c: Floats, steps: int) -> Floats:
    """Return theta by the textbook steps of EM (Chuklin et al., 2015), without acceleration."""
    theta, gamma = np.full(cells.positions, 0.9), np.full(cells.items, 0.5)
    for _ in range(steps):
        t, g = theta[cells.position], gamma[cells.item]
        attracts = c + (n - c) * g * (1 - t) / (1 - t * g)
        examined = c + (n - c) * t * (1 - g) / (1 - t * g)
        gamma = cells.per_item(attracts) / cells.per_item(n)
        theta = cells.per_position(examined) / cells.per_position(n)
    return relative(np.log(theta))


@st.composite
def logs(draw: st.DrawFn) -> tuple[list[Row], Floats]:
    """Draw the exact expected counts of a position-based model in which items connect all positions, and its theta."""
    positions = draw(st.integers(2, 6))
    theta = np.array([draw(st.floats(0.05, 1)) for _ in range(positions)])
    rows = list[Row]()
    for item in range(draw(st.integers(positions, 12))):
        gamma, shown = draw(st.floats(0.01, 0.99)), draw(st.integers(1, 1_000))
        for position in {item % positions, (item + 1) % positions, draw(st.integers(0, positions - 1))}:
            impressions = shown * 10**9
            rows.append((item, position, 0, impressions, round(impressions * gamma * theta[position])))
    return rows, theta


@given(logs())
@settings(max_examples=60)
def test_expected_counts_give_the_truth(log: tuple[list[Row], Floats]) -> None:
    rows, theta = log
    for method in METHODS:
        found = relative(fitted(method, counts_of(rows)))
        assert found == pytest.approx(theta / theta[0], rel=1e-4), method


def fitted(method: str, counts: ClickCounts) -> Floats:
    """Fit a model to counts with one row for each item and position."""
    cells = ItemCells(counts.item, counts.position, counts.items, int(counts.position.max()) + 1)
    return MODELS[method](cells, counts.impressions.astype(np.float64), counts.clicks.astype(np.float64))


@given(logs(), st.permutations(range(12)), st.integers(2, 1_000))
@settings(max_examples=25)
def test_names_of_items_and_scale_of_counts_do_not_matter(
    log: tuple[list[Row], Floats], names: list[int], factor: int
) -> None:
    rows = [(item, position, 0, 500, 500 * c // n) for item, position, _, n, c in log[0]]
    renamed = [(names[item], place, 0, n * factor, c * factor) for item, place, _, n, c in rows]
    for method in METHODS:
        found = relative(fitted(method, counts_of(rows)))
        np.testing.assert_allclose(relative(fitted(method, counts_of(renamed))), found, rtol=1e-4)


def test_the_same_counts_give_the_same_digits() -> None:
    _, log = next(drawn())
    counts = {"": log.draw(20_000, np.random.default_rng(1))}
    for method in METHODS:
        assert curves_of(counts, method, 20) == curves_of(counts, method, 20)


@pytest.mark.parametrize("method", METHODS)
def test_two_positions_and_one_item_give_the_ratio_of_rates(method: PropensityMethod) -> None:
    rows = [(0, place, b, 10, clicks + b % 2) for b in range(100) for place, clicks in ((3, 7), (7, 1))]
    first, second = curve_of(rows, method).points
    assert (first.value, first.low, first.impressions, first.clicks) == (1.0, None, 1_000, 750)
    assert (second.value, second.items) == (0.2, 1)
    assert second.low is not None and second.high is not None
    assert second.low < 0.2 < second.high


def test_two_positions_of_many_items_have_the_common_risk_ratio() -> None:
    source = np.random.default_rng(5)
    n, c = source.integers(5, 50, (40, 2)), source.integers(1, 5, (40, 2))
    rows = [(item, place, item, int(n[item, place]), int(c[item, place])) for item in range(40) for place in (0, 1)]
    total = n.sum(axis=1)
    mantel_haenszel = (c[:, 1] * n[:, 0] / total).sum() / (c[:, 0] * n[:, 1] / total).sum()
    assert curve_of(rows, "harvesting").points[1].value == pytest.approx(mantel_haenszel, rel=1e-5)


def test_the_maximum_is_that_of_plain_em() -> None:
    """Some of the rarest items were always clicked, so their attraction is at its bound of 1."""
    _, log = list(drawn())[1]
    counts = log.draw(1_000_000, np.random.default_rng(1))
    cells, first_rows = cells_of_rows(counts.item, counts.position)
    n, c = (np.add.reduceat(values, first_rows).astype(np.float64) for values in (counts.impressions, counts.clicks))
    kept = seen_elsewhere(cells, n)
    cells, n, c = cells.compressed(kept), n[kept], c[kept]
    found = relative(position_model.log_propensities(cells, n, c))
    assert found == pytest.approx(plain_em(cells, n, c, 1_500), rel=2e-4)


def test_the_simulators_examination_is_found_in_its_expectations() -> None:
    for (device, log), truth in zip(drawn("hybrid"), DEVICES, strict=True):
        assert device == truth.name
        for method in METHODS:
            found = relative(fitted(method, log.expected()))
            assert found == pytest.approx([truth.examination(place) for place in range(truth.depth)], rel=1e-4)


def test_items_of_few_impressions_bias_the_click_model_and_not_the_comparison() -> None:
    source = np.random.default_rng(8)
    theta, items = 1 / np.arange(1, 13), 4_000
    item, position = np.repeat(np.arange(items), 4), np.sort(source.random((items, 12)).argsort(axis=1)[:, :4]).ravel()
    gamma = source.random(items)
    n = source.poisson(2, len(item)).astype(np.float64)
    c = source.binomial(n.astype(np.int64), gamma[item] * theta[position]).astype(np.float64)
    cells = ItemCells(item, position, items, 12)
    errors = {method: np.log(relative(model(cells, n, c)) / theta)[1:] for method, model in MODELS.items()}
    assert abs(errors["harvesting"].mean()) < 0.1
    assert errors["em"].min() > 0.1


CONNECTED = [(0, 0, b, 5, b % 2) for b in range(100)] + [(0, 1, b, 5, b % 3 == 0) for b in range(100)]


@pytest.mark.parametrize("name", REFUSED)
def test_a_log_that_cannot_say_is_refused(name: str) -> None:
    counts, method, reason = REFUSED[name]
    with pytest.raises(Refusal, match=reason):
        curves_of({"": counts}, method, 50)


@pytest.mark.parametrize("method", METHODS)
def test_a_position_that_does_not_compare_has_a_reason(method: PropensityMethod) -> None:
    alone = [(1, 2, b, 5, 1) for b in range(50)]
    island = [(2, place, b, 5, 1) for b in range(50) for place in (3, 9)]
    clickless = [(0, 4, b, 5, 0) for b in range(50)]
    one_way = [(3, 0, b, 5, 1) for b in range(50)] + [(3, 5, 0, 5, 0), *((4, 5, b, 5, 1) for b in range(50))]
    rare = [(0, 6, 1, 5, 1)]
    curve = curve_of(CONNECTED + alone + island + clickless + one_way + rare, method)
    reasons = {point.position: point.reason for point in curve.points}
    assert reasons[0] == reasons[1] == ""
    assert reasons[2] == "no document shown here was shown at another position for the same query"
    assert reasons[3] == reasons[9] == reasons[5]
    assert reasons[3].startswith("too few clicks on documents shown both here")
    assert reasons[4] == "no clicks"
    assert reasons[6].startswith("too few clicks for an interval: ")
    assert list(curve.values()) == [0, 1]
    assert all(point.low is None and point.value is None for point in curve.points[2:])


@pytest.mark.parametrize("method", METHODS)
def test_only_clicks_give_equal_propensities(method: PropensityMethod) -> None:
    curve = curve_of([(item, place, item, 5, 5) for item in range(30) for place in (0, 1, 2)], method)
    assert list(curve.values().values()) == pytest.approx([1, 1, 1], abs=1e-5)


def test_a_segment_that_cannot_say_does_not_refuse_the_others() -> None:
    counts = {"ios": counts_of(CONNECTED), "none": REFUSED["no clicks, em"][0]}
    known, unknown = curves_of(counts, "harvesting", 50)
    assert known.segment == "ios" and known.values()[1] == pytest.approx(0.68)
    assert unknown.values() == {}
    assert {point.reason for point in unknown.points} == {"no clicks"}


def test_deep_positions_are_counted_and_left_out() -> None:
    deep = [(0, place, 1, 5, 1) for place in range(2, MAX_POSITIONS + 10)]
    curve = curve_of(CONNECTED + deep)
    assert (len(curve.points), curve.omitted) == (MAX_POSITIONS, 50)


def uniform_slots(items: int, seed: int, shown: int = 3) -> list[Row]:
    """Draw documents that chance puts at three positions of examination 1, 0.5 and 0.25."""
    source = np.random.default_rng(seed)
    rows = list[Row]()
    for item, place in itertools.product(range(items), range(3)):
        n = int(source.poisson(shown))
        if n:
            rows.append((item, place, int(source.integers(BUCKETS)), n, int(source.binomial(n, 0.6 / 2**place))))
    return rows


@pytest.mark.parametrize("shown", [1, 30])
def test_randomised_slots_have_the_ratio_of_rates(shown: int) -> None:
    curve = curve_of(uniform_slots(9_000 // shown, 1, shown), "randomised", propensity=1 / 3)
    assert list(curve.values().values()) == pytest.approx([1, 0.5, 0.25], rel=0.1)
    assert all(point.low is None or point.low < (point.value or 0) < (point.high or 0) for point in curve.points)


def test_slots_that_were_not_randomised_are_refused_with_numbers() -> None:
    rows = uniform_slots(300, 1)
    moved = [(item + 1_000 * (place == 2 and item % 3 == 0), place, *rest) for item, place, *rest in rows]
    curve = curve_of(moved, "randomised", propensity=1 / 3)  # type: ignore[arg-type]
    assert list(curve.values()) == [0, 1]
    assert (
        "% of the weighted impressions at position 2 are of documents never shown at position 0"
        in curve.points[2].reason
    )


def test_a_weight_of_1e9_is_refused() -> None:
    counts = counts_of(uniform_slots(300, 1), 1 / 3)
    assert counts.propensity is not None
    counts.propensity[np.flatnonzero(counts.position == 1)[0]] = 1e-9
    (curve,) = curves_of({"": counts}, "randomised", 50)
    assert "leave an effective number of" in curve.points[1].reason
    assert curve.points[2].value is not None


def test_the_chance_of_a_missing_document_is_that_of_one_shown_once() -> None:
    rows = counts_of(uniform_slots(20_000, 2, 1))
    cells = ItemCells(rows.item, rows.position, rows.items, 3)
    impressions = rows.impressions.astype(np.float64)
    share, chance = randomised.foreign_share(cells, impressions, impressions, (1, 0))
    assert share == pytest.approx(np.exp(-1), abs=0.02)
    assert share == pytest.approx(chance, abs=0.02)


def test_the_bootstrap_has_the_standard_error_of_a_ratio() -> None:
    source = np.random.default_rng(4)
    clicks = source.binomial(50, [[0.4], [0.2]], (2, BUCKETS)).astype(np.float64)
    found = bootstrapped(lambda weights, _start: np.log(clicks @ weights), BUCKETS, 2_000)
    total = clicks.sum(axis=1)
    expected = np.sqrt((0.6 / total[0]) + (0.8 / total[1]))
    assert (found.high - found.values)[1] / 1.96 == pytest.approx(expected, rel=0.1)


def test_a_slice_of_the_campaign_finds_nothing() -> None:
    arguments = ["--stored", "0", "--events", "--seeds", "1", "--seed-events", "50000", "--replicates", "50"]
    found = run(parsed(arguments), lambda _line: None)
    assert not findings(found)
    assert len(found["coverage"]["by_figure"]) > 20
