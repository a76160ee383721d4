"""Off-policy estimators: values by hand, laws, and the logs that they refuse to answer from."""

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learning.estimators.off_policy import LoggedResults, OffPolicyEstimates, PolicyValue, estimate_value
from learning.estimators.reward_model import FOLDS, ModelledResults, PolicyEntries, expected_rewards
from learning.scope import Refusal

Z = 1.959963984540054


def logged(rows: Sequence[tuple[float, float, float, int]], **more: Any) -> LoggedResults:
    """Results of (reward, propensity, probability, execution)."""
    reward, propensity, probability, execution = np.array(rows, float).reshape(-1, 4).T
    return LoggedResults(reward, propensity, probability, execution.astype(np.int64), **more)


def by_name(found: OffPolicyEstimates) -> dict[str, PolicyValue]:
    return {each.estimator: each for each in (found.logged, *found.estimates)}


HAND = [(1, 0.5, 1, 0), (0, 0.5, 0, 0), (1, 0.25, 0.25, 1), (0, 0.5, 0.25, 2), (0, 0.2, 0.05, 3)]
"""Weights 2, 0, 1, 0.5, 0.25; four executions."""


def test_values_by_hand() -> None:
    expected, of_policy = np.array([0.5, 0, 0.5, 0.5, 0]), np.array([0.5, 0.5, 0.25, 0.25, 0.25])
    found = estimate_value(
        logged(HAND, expected=expected, expected_of_policy=of_policy), ("ips", "snips", "dr"), min_ess=1
    )
    values = by_name(found)
    assert values["logged"].value == pytest.approx(2 / 5)
    assert values["ips"].value == pytest.approx(3 / 5)
    assert values["snips"].value == pytest.approx(3 / 3.75)
    assert values["dr"].value == pytest.approx((0.5 + 1 + 0.5 + 0.25 + 0.5 + 0.25 - 0.25 + 0.25) / 5)
    of_execution = [2 - 2 * 0.6, 1 - 0.6, -0.6, -0.6]
    error = math.sqrt(4 / 3 * sum(each**2 for each in of_execution)) / 5
    ips = values["ips"]
    assert (ips.standard_error, ips.low, ips.high) == pytest.approx((error, 0.6 - Z * error, 0.6 + Z * error))
    of_ratio = [2 - 2 * 0.8, 1 - 0.8, -0.5 * 0.8, -0.25 * 0.8]
    paired = [1 - 2 * 0.2, -0.2, -0.2, -0.2]
    error = math.sqrt(4 / 3 * sum(each**2 for each in paired)) / 5
    assert (found.difference.value, found.difference.standard_error) == pytest.approx((0.2, error))
    assert values["snips"].standard_error == pytest.approx(math.sqrt(4 / 3 * sum(e**2 for e in of_ratio)) / 3.75)
    weights = found.weights
    assert (weights.results, weights.executions, weights.rewarded_executions) == (5, 4, 2)
    assert weights.ess == pytest.approx(3.75**2 / (4 + 1 + 0.25 + 0.0625))
    assert (weights.mean, weights.largest, weights.top_share) == pytest.approx((0.75, 2, 2 / 3.75))


def test_clipping_names_its_bias() -> None:
    found = estimate_value(logged(HAND), ("ips", "snips"), min_ess=1, max_weight=1)
    values = by_name(found)
    assert values["ips"].value == pytest.approx(2 / 5)
    assert values["ips"].clip_bias == pytest.approx(2 / 5 - 3 / 5)
    assert (found.difference.value, found.difference.clip_bias) == pytest.approx((0, -1 / 5))
    assert values["snips"].clip_bias == pytest.approx(2 / 2.75 - 3 / 3.75)
    assert (found.weights.clipped, found.weights.largest, found.weights.mean) == (1, 1, 0.75)


def test_clipping_does_not_hide_a_log_that_cannot_answer() -> None:
    rows = [*GOOD, (0, 1e-5, 1, -1)]
    with pytest.raises(Refusal, match="effective sample size is 1 of 201"):
        estimate_value(logged(rows))
    clipped = estimate_value(logged(rows), max_weight=2)
    assert clipped.warnings == (
        "without clipping the effective sample size is 1: the log hardly shows how large the bias is",
    )


def test_results_of_one_execution_are_one_observation() -> None:
    """Every result ten times in its execution changes no interval; ten times as an execution of its own does."""
    rows = [*HAND, (0, 0.2, 0.45, 4)]  # with a mean weight of 1
    one = estimate_value(logged(rows), ("ips",), min_ess=1)
    same = estimate_value(logged(rows * 10), ("ips",), min_ess=1)
    apart = [(*row[:3], row[3] + 5 * number) for number in range(10) for row in rows]
    other = estimate_value(logged(apart), ("ips",), min_ess=1)
    assert same.estimates[0].standard_error == pytest.approx(one.estimates[0].standard_error)
    assert same.weights.ess_executions == pytest.approx(one.weights.ess_executions)
    assert same.weights.ess == pytest.approx(10 * one.weights.ess)
    assert other.estimates[0].standard_error < 0.4 * one.estimates[0].standard_error


Rows = st.lists(
    st.tuples(
        st.sampled_from([0.0, 1.0, 3.0, -0.5]),
        st.floats(0.05, 1),
        st.floats(0.01, 1),
        st.integers(0, 30),
    ),
    min_size=60,
    max_size=120,
)


def accepted(results: LoggedResults, **options: Any) -> OffPolicyEstimates | None:
    """Estimates; None where the log is refused, as it mostly is for random weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return estimate_value(results, ("ips", "snips"), min_ess=1, **options)
        except Refusal:
            return None


@given(Rows)
@settings(max_examples=40)
def test_the_logged_policy_has_the_mean_reward_and_all_results_as_sample(rows: list[Any]) -> None:
    own = [(reward, propensity, propensity, number) for number, (reward, propensity, _, _) in enumerate(rows)]
    found = accepted(logged(own))
    if found is None:
        assert len({row[0] for row in rows}) == 1
        return
    for each in found.estimates:
        assert each.value == pytest.approx(found.logged.value)
        assert each.standard_error == pytest.approx(found.logged.standard_error)
    assert found.weights.ess == pytest.approx(len(rows))
    assert found.weights.ess_executions == pytest.approx(len(rows))
    assert (found.weights.mean, found.weights.largest) == (1, 1)
    assert (found.difference.value, found.difference.standard_error) == (0, 0)
    assert found.notes == ("the log shows documents as this policy does already",)


@given(Rows, st.randoms(use_true_random=False), st.floats(0.25, 4))
@settings(max_examples=40)
def test_order_changes_nothing_and_rewards_scale(rows: list[Any], source: Any, factor: float) -> None:
    mean = sum(row[2] for row in rows) / len(rows)  # weights with a mean of 1 are not refused
    near = [(reward, 0.02, 0.02 * size / mean, execution) for reward, _, size, execution in rows]
    found = accepted(logged(near))
    shuffled = source.sample(near, len(near))
    scaled = [(factor * reward, *others) for reward, *others in near]
    again, larger = accepted(logged(shuffled)), accepted(logged(scaled))
    if found is None or again is None or larger is None:
        assert found is again is larger
        assert len({row[0] for row in rows}) == 1 or len({row[3] for row in rows}) == 1
        return
    for one, two, three in zip(found.estimates, again.estimates, larger.estimates, strict=True):
        assert (two.value, two.standard_error) == pytest.approx((one.value, one.standard_error))
        assert (three.value, three.standard_error) == pytest.approx(
            (factor * one.value, factor * one.standard_error), abs=1e-12
        )


@given(Rows, st.sampled_from([1e-12, 1e-9, 1e-3]), st.integers(0, 59))
@settings(max_examples=40)
def test_large_weights_are_answered_with_finite_numbers_or_refused(rows: list[Any], tiny: float, place: int) -> None:
    rows[place] = (1.0, tiny, 1.0, rows[place][3])
    found = accepted(logged(rows))
    if found is not None:
        assert all(math.isfinite(each.low) and math.isfinite(each.high) for each in found.estimates)
        assert 1 <= found.weights.ess_executions <= found.weights.ess * (1 + 1e-9) <= len(rows) * (1 + 1e-6)


GOOD = [(number % 2, 0.5, 0.5, number) for number in range(200)]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([], "there are no results"),
        ([(1, math.nan, 0.5, -1), *GOOD], "1 of 201 results have no logged propensity"),
        ([(1, 0, 0.5, -1), *GOOD], "1 of 201 logged propensities are not probabilities from 1e-12 to 1, such as 0"),
        ([(1, -0.5, 0.5, -1), *GOOD], "such as -0.5"),
        ([(1, 1.5, 0.5, -1), *GOOD], "such as 1.5"),
        ([(1, math.inf, 0.5, -1), *GOOD], "such as inf"),
        ([(1, 5e-324, 0.5, -1), *GOOD], "such as 4.9"),
        ([(math.inf, 0.5, 0.5, -1), *GOOD], "a reward is not a finite number"),
        ([(1, 0.5, 1.5, -1), *GOOD], "a probability of the policy is not from 0 to 1"),
        ([(1, 0.5, 0, number) for number in range(200)], "none of the logged results"),
        ([(number % 2, 0.5, 0.5, 7) for number in range(200)], "all results are of one execution"),
        ([(*row[:3], row[3] // 4) for row in GOOD], "sample size is 50 of 50 executions"),
        (GOOD[:99], "sample size is 99 of 99 executions, and at least 100 is needed"),
        ([(1, 1e-9, 1, -1), *GOOD], "the largest weight is 1,000,000,000"),
        ([(row[0], 0.5, 0.4, row[3]) for row in GOOD], "mean weight is 0.800 (99.9 % interval 0.800 to 0.800)"),
        ([(row[0], 0.25, 0.5, row[3]) for row in GOOD], "propensities are too small"),
        ([(0, *row[1:]) for row in GOOD], "all 200 results that the policy would show have the reward 0"),
        ([(1, *row[1:]) for row in GOOD], "have the reward 1"),
    ],
)
def test_a_log_that_cannot_answer_is_refused(rows: list[Any], says: str) -> None:
    with pytest.raises(Refusal) as refused:
        estimate_value(logged(rows))
    assert says in str(refused.value)


def test_doubtful_numbers_are_warned_of() -> None:
    few = [(number < 5, 0.5, 0.5, number) for number in range(200)]
    assert estimate_value(logged(few)).warnings == ("only 5 executions have a reward: the intervals are too short",)
    unequal = [(number % 2, 0.5, 0.95 if number % 3 else 0.0, number) for number in range(60)]
    (warning,) = estimate_value(logged(unequal), min_ess=30).warnings
    assert warning.startswith("the mean weight is 1.267 (95 % interval 1.038 to 1.495) instead of 1: propensities")


def test_the_model_predicts_an_execution_from_the_others() -> None:
    """Item 0 is rewarded in fold 0 alone: only the other folds expect something of it."""
    fold = np.arange(100) % FOLDS
    item = (np.arange(100) // FOLDS) % 2
    reward = ((fold == 0) & (item == 0)).astype(float)
    zeros = np.zeros(100, np.int64)
    policy = PolicyEntries(np.array([0]), np.array([0]), np.array([1.0]))
    expected, of_policy = expected_rewards(ModelledResults(reward, zeros, item, zeros, fold), policy)
    assert not expected[fold == 0].any()
    mean, shown = 10 / 80, 40  # of the four folds of another fold's training, 10 of 80 results are rewarded
    first = mean + (10 - shown * mean) / (shown + 10)
    second = mean + (0 - shown * mean) / (shown + 10)
    assert expected[(fold == 1) & (item == 0)] == pytest.approx(first)
    assert expected[(fold == 1) & (item == 1)] == pytest.approx(second)
    assert of_policy[fold == 1] == pytest.approx(first)


def test_a_model_of_few_executions_has_the_mean_of_the_position() -> None:
    """A position and an item that the other folds never showed, and a policy without logged documents."""
    one_each, zeros = np.array([0, 1]), np.zeros(2, np.int64)
    alone = ModelledResults(np.array([1.0, 0.0]), one_each, one_each, zeros, one_each)
    nothing = PolicyEntries(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    expected, of_policy = expected_rewards(alone, nothing)
    assert (expected.tolist(), of_policy.tolist()) == ([0.0, 1.0], [0.0, 1.0])
