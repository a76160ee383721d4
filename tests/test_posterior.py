"""Posterior of weights, from counts of results."""

import math
from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from learning.estimators.posterior import (
    Posterior,
    ResultCount,
    Shape,
    clipped_weights,
    draw,
    effective_exploration,
    posterior,
    with_session,
)
from schemas.learning_config import LearningConfig
from schemas.type_sets import type_set, types_of

SHOWN, CLICKED, SKIPPED = type_set(["impression"]), type_set(["click"]), type_set(["skip"])
TODAY = 20_000
COUNTS = st.lists(
    st.builds(
        lambda day, feature, sets, results: ResultCount(
            day, feature, tuple(sorted(sets)), tuple(sets[each] for each in sorted(sets)), results
        ),
        st.integers(TODAY - 400, TODAY + 1),
        st.sampled_from(["image", "text", "title"]),
        st.dictionaries(st.sampled_from([SHOWN, CLICKED, SKIPPED, SHOWN | CLICKED]), st.integers(1, 5), min_size=1),
        st.integers(1, 100),
    ),
    max_size=20,
)

DRAWS = st.lists(st.just(0.0) | st.floats(1e-30, 1), min_size=1, max_size=8).filter(any)
BOUNDS = st.tuples(st.floats(0, 0.5), st.floats(0.5, 1))


def count(day: int, feature: str, results: int = 1, **times: int) -> ResultCount:
    sets = {type_set([name]): number for name, number in times.items()}
    return ResultCount(day, feature, tuple(sorted(sets)), tuple(sets[each] for each in sorted(sets)), results)


def test_a_posterior_by_hand() -> None:
    counts = [
        count(TODAY, "text", impression=1, click=2),
        count(TODAY, "text", 3, impression=1),
        count(TODAY - 2, "text", impression=1, skip=1),
    ]
    config = LearningConfig(reward_map={"click": 1, "skip": -0.5}, decay_factor=0.9)
    found = posterior(counts, config, TODAY)
    assert found.shapes["text"].alpha == pytest.approx(1 + 2)
    assert found.shapes["text"].beta == pytest.approx(1 + 3 + 0.81 * (1 + 0.5))
    assert found.interactions == 3


@given(COUNTS, st.randoms())
def test_equal_counts_give_equal_bits_in_any_order_and_portion(counts: list[ResultCount], random: object) -> None:
    config = LearningConfig(reward_map={"click": 0.3, "skip": -0.7})
    split = [each._replace(results=part) for each in counts for part in (each.results - 1, 1) if part]
    random.shuffle(split)  # type: ignore[attr-defined]
    assert posterior(split, config, TODAY) == posterior(counts, config, TODAY)


@given(COUNTS)
def test_events_outside_the_window_do_not_count(counts: list[ResultCount]) -> None:
    config = LearningConfig(decay_window_days=30)
    inside = [each for each in counts if TODAY - each.day < 30]
    assert posterior(counts, config, TODAY) == posterior(inside, config, TODAY)


def test_three_clicks_of_a_session_change_what_a_million_results_taught() -> None:
    config = LearningConfig()
    before = Posterior({"image": Shape(3e5, 7e5), "text": Shape(3e5, 7e5)}, 1_000_000)
    after = with_session(before, Counter({("image", SHOWN): 3, ("image", CLICKED): 3}), config, 20)
    assert after.shapes["image"] == pytest.approx((6 + 3, 14))
    assert after.shapes["text"] == before.shapes["text"]


@given(st.dictionaries(st.tuples(st.sampled_from("ab"), st.sampled_from([SHOWN, CLICKED])), st.integers(1, 9)))
def test_a_session_does_not_depend_on_the_order_of_its_events(events: dict[tuple[str, int], int]) -> None:
    before = Posterior({"a": Shape(10, 90)}, 10)
    found = {
        with_session(before, dict(order), LearningConfig(), 20).shapes["a"] for order in permutations(events.items())
    }
    assert len(found) == 1


@given(st.floats(0.1, 1e6), st.floats(0.1, 1e6), st.floats(0, 10))
def test_weights_sum_to_1_and_draws_are_shares(alpha: float, beta: float, exploration: float) -> None:
    values = draw([Shape(alpha, beta), Shape(beta, alpha)], exploration, np.random.default_rng(1))
    assert all(0 <= value <= 1 for value in values)
    assert math.isclose(sum(clipped_weights(values, LearningConfig())), 1)


@given(DRAWS, BOUNDS, st.integers(-900, 0))
def test_scaling_all_draws_changes_no_weight(draws: list[float], bounds: tuple[float, float], exponent: int) -> None:
    config = LearningConfig(min_weight=bounds[0], max_weight=bounds[1])
    scaled = clipped_weights([math.ldexp(value, exponent) for value in draws], config)
    assert scaled == clipped_weights(draws, config)


@given(DRAWS, BOUNDS)
def test_weights_are_shares_within_the_bounds_by_a_common_divisor(
    draws: list[float], bounds: tuple[float, float]
) -> None:
    low, high = bounds
    weights = clipped_weights(draws, LearningConfig(min_weight=low, max_weight=high))
    assert math.isclose(sum(weights), 1)
    shares = [value / sum(draws) for value in draws]
    divisor = sum(min(high, max(low, share)) for share in shares)
    for share, weight in zip(shares, weights, strict=True):
        assert low <= weight * divisor * (1 + 1e-12)
        assert weight * divisor <= high * (1 + 1e-12)
        if low <= share <= high:
            assert weight == pytest.approx(share / divisor)


@pytest.mark.parametrize(
    ("draws", "weights"),
    [
        ([0.03, 0.01], [0.75, 0.25]),
        ([0.5, 0.001], [0.95, 0.05]),
        ([0.98, 0.01, 0.01], [0.95 / 1.05, 0.05 / 1.05, 0.05 / 1.05]),
        ([0.2], [1]),
        ([0.0, 0.0], [0.5, 0.5]),
        ([5e-324, 0.0], [0.95, 0.05]),
    ],
)
def test_weights_by_hand(draws: list[float], weights: list[float]) -> None:
    assert clipped_weights(draws, LearningConfig()) == pytest.approx(weights)


def test_exploration_decays_to_its_floor() -> None:
    config = LearningConfig(exploration_bonus=2, exploration_decay=0.9, exploration_floor=0.5)
    assert [effective_exploration(config, events) for events in (0, 1, 1_000)] == [2, 1.8, 0.5]


def test_without_exploration_the_mean_is_served() -> None:
    assert draw([Shape(1, 3)], 0, np.random.default_rng(1)) == draw([Shape(1, 3)], 1, None) == [0.25]


def test_type_sets_name_their_types() -> None:
    assert types_of(type_set(["click", "impression", "click"])) == ("impression", "click")


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_interactions": 0},
        {"decay_factor": 0.89},
        {"max_weight": 0.4},
        {"exploration_bonus": float("nan")},
        {"context_features": ["INPUT.device"]},
        {"demographic_features": ["device"]},
        {"demographic_features": ["INPUT.user_id"]},
        {"reward_map": {"clik": 1}},
        {"unknown": 1},
    ],
)
def test_configurations_outside_the_published_ranges_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        LearningConfig.model_validate(wrong)
