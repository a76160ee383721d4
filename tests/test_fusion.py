"""Learned weights in a simulated search application: a slice of `python -m tests.learning.fusion`, and its measures."""

from functools import cache

import numpy as np
import pytest

from tests.learning.fusion import WINDOW, LearnerFigures, figures_of_seed, lines, parsed, recovery, summary
from tests.learning.fusion_learners import ContextCounts, GivenWeights, best_fixed, run_learner
from tests.learning.fusion_settings import LEARNERS, TALLY, UNIFORM
from tests.learning.fusion_world import FEATURES, SHOWN, FusionWorld, WorldSize, simplex

TOGETHER = "tally, together, decay for drift"
SEEDS = (201, 202, 203)
REFERENCES = ("best fixed weights", "best fixed weights of each half", "oracle")


@cache
def found_figures() -> list[dict[str, LearnerFigures]]:
    learners = {name: LEARNERS[name] for name in (UNIFORM, TALLY, TOGETHER)}
    return [figures_of_seed(learners, WorldSize(6_000), None, seed) for seed in SEEDS]


def test_tally_loses_fewer_clicks_than_uniform_weights() -> None:
    """The weights of all users together, decayed for drift, lose at most 80 % as much."""
    for each in found_figures():
        assert each["oracle"].to_oracle == 0
        assert each[TOGETHER].to_oracle < 0.8 * each[UNIFORM].to_oracle
        assert each[TALLY].to_oracle < each[UNIFORM].to_oracle + 15


def test_tally_recovers_after_the_change() -> None:
    """Within a third of the time that is left it is close to the best fixed weights, and sooner than uniform ones."""
    for each in found_figures():
        assert each[TOGETHER].recovery < min(1_000, each[UNIFORM].recovery)


def test_the_summary_is_paired_and_names_each_learner() -> None:
    found = summary(found_figures())
    assert list(found) == [UNIFORM, TALLY, TOGETHER, *REFERENCES]
    assert found[TALLY]["less_tally"] == {"mean": 0, "low": 0, "high": 0}
    means = {name: each["to_oracle"]["mean"] for name, each in found.items()}
    assert found[UNIFORM]["less_tally"]["mean"] == pytest.approx(means[UNIFORM] - means[TALLY])
    text = lines({"learners": found, "seeds": 3, "searches": 6_000, "attraction": 0.6, "seconds": 1})
    assert len(text) == 4 + len(found)


def test_true_coefficients_are_the_best_weights() -> None:
    world = FusionWorld(7, WorldSize(3_000))
    oracle = run_learner(world, GivenWeights(world.coefficients)).expected
    for weights in simplex(4):
        assert (run_learner(world, GivenWeights(weights)).expected <= oracle + 1e-12).all()
    same = best_fixed(world, 0, 3_000, parts=4)
    assert world.expected_of(same) == pytest.approx(run_learner(world, GivenWeights(same)).expected)


def test_a_result_is_attributed_to_the_feature_that_contributes_most() -> None:
    world = FusionWorld(7, WorldSize(3_000))
    for number in range(len(FEATURES)):
        found = world.show(slice(0, 50), np.tile(np.eye(len(FEATURES))[number], (50, 1)))
        assert (found.features == number).all()
        assert found.clicked.shape == (50, SHOWN)


def test_clicks_are_as_frequent_as_expected() -> None:
    world = FusionWorld(7, WorldSize(20_000))
    found = world.show(slice(0, 20_000), world.coefficients)
    assert found.clicked.sum() == pytest.approx(found.expected.sum(), rel=0.03)


def test_counts_of_a_context_are_rows_by_day_and_feature() -> None:
    counts = ContextCounts()
    for day, feature, is_clicked in ((0, 1, True), (0, 1, True), (0, 1, False), (2, 1, True)):
        counts.add(day, feature, is_clicked)
    rows = counts.rows()
    assert [(each.day - rows[0].day, len(each.type_sets), each.results) for each in rows] == [
        (0, 2, 2),
        (0, 1, 1),
        (2, 2, 1),
    ]
    assert {each.feature_uri for each in rows} == {FEATURES[1]}


def test_recovery_is_the_first_window_that_is_close_enough() -> None:
    best = np.ones(3 * WINDOW)
    expected = np.where(np.arange(3 * WINDOW) < 700, 0.5, 0.96)
    assert 600 < recovery(expected, best) < 700
    assert recovery(best, best) == 0
    assert np.isinf(recovery(0.9 * best, best))
    assert np.isinf(recovery(np.where(np.arange(3 * WINDOW) < 700, 0.96, 0.5), best)), "it does not last"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "1"], "--seeds: an interval needs at least 2"),
        (["--searches", "10"], "--searches: at least 3,000"),
        (["--attraction", "0"], "--attraction: a probability above 0"),
        (["--processes", "0"], "--processes: at least 1"),
    ],
)
def test_bad_options_are_named(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed(arguments)
    assert message in capsys.readouterr().err
