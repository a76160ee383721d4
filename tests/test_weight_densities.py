"""Densities of drawn weights against scipy, and estimates from simulated logs of a known environment."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from learning.estimators.decision_values import DecisionEstimates, estimate_decisions
from learning.estimators.posterior import SMALLEST_SHAPE, Shape, clipped_weights, draw
from learning.estimators.weight_densities import LARGEST_DRAW, LEAST_DRAW, LEAST_LOG_DENSITY, explored, log_density
from learning.scope import Refusal
from schemas.learning_config import LearningConfig

Floats = npt.NDArray[np.float64]

SHAPES = st.floats(0.05, 1e5)
LOGS = 200


def of(*values: float) -> Floats:
    return np.array(values, float)


@given(SHAPES, SHAPES, st.floats(1e-9, 1 - 1e-9))
def test_the_density_is_that_of_scipy(alpha: float, beta: float, theta: float) -> None:
    found = log_density(of(theta), of(alpha), of(beta))[0]
    expected = stats.beta(alpha, beta).logpdf(theta)
    if expected > -600:
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-6)
    else:
        assert found < -500


@given(st.floats(0.001, 50), st.floats(0.001, 50))
def test_each_end_has_the_probability_of_the_draws_that_are_rounded_to_it(alpha: float, beta: float) -> None:
    known = stats.beta(alpha, beta)
    found = np.exp(log_density(of(0, 1), of(alpha, alpha), of(beta, beta)))
    assert found == pytest.approx([known.cdf(LEAST_DRAW), known.sf(LARGEST_DRAW)], rel=1e-4)


def test_draws_that_are_rounded_to_the_ends_have_a_finite_density() -> None:
    """Small parameters give draws of exactly 0 and 1."""
    tiny = np.full(1_000, 0.001)
    draws = np.random.default_rng(1).beta(tiny, tiny)
    assert (draws == 0).any()
    assert (draws == 1).any()
    found = log_density(draws, tiny, tiny) - log_density(draws, 2 * tiny, tiny)
    assert np.isfinite(found).all()
    weights = np.exp(-found)
    assert abs(weights.mean() - 1) < 4 * weights.std() / np.sqrt(1_000)


@given(SHAPES, SHAPES, st.integers(0, 1_000))
def test_draws_are_possible_under_their_own_parameters(alpha: float, beta: float, seed: int) -> None:
    draws = np.random.default_rng(seed).beta(alpha, beta, 100)
    assert (log_density(draws, np.full(100, alpha), np.full(100, beta)) > LEAST_LOG_DENSITY).all()


def test_the_parameters_are_those_that_weights_are_drawn_from() -> None:
    shapes = [Shape(3, 9), Shape(1e-12, 2)]
    alpha, beta = (explored(of(*each), of(2, 2)) for each in zip(*shapes, strict=True))
    assert alpha.tolist() == [1.5, SMALLEST_SHAPE]
    expected = np.random.default_rng(7).beta(alpha, beta).tolist()
    assert draw(shapes, 2, np.random.default_rng(7)) == expected


class Environment(NamedTuple):
    """Users with several searches each; the reward depends on the served weights, the user and the day."""

    users: int = 300
    searches: int = 8
    config: LearningConfig = LearningConfig()

    def served(self, random: np.random.Generator, alpha: Floats, beta: Floats) -> tuple[Floats, Floats]:
        """Draw, and return the draws and the served weights: rows are decisions."""
        draws = random.beta(alpha, beta)
        return draws, np.array([clipped_weights(each, self.config) for each in draws.tolist()])

    def log(self, seed: int) -> tuple[Floats, Floats, npt.NDArray[np.int64], float]:
        """Return rewards, logarithms of weights, users and the mean reward under the target.

        The reward is a number of clicks from 0 to 3: the first feature is good, for some users more.
        """
        random = np.random.default_rng(seed)
        users = np.repeat(np.arange(self.users), self.searches)
        taste = random.uniform(0.2, 1, self.users)[users]
        day = random.integers(1, 20, (len(users), 1))
        logged = of(2, 1, 0.3) + day * of(0.5, 0.6, 0.02), of(2, 3, 6) + day * of(1, 1.5, 1)
        target = of(2, 1, 0.3) + day * of(0.6, 0.5, 0.02), of(2, 3, 6) + day * of(0.9, 1.6, 1)
        draws, weights = self.served(random, *logged)
        _, others = self.served(random, *target)
        reward = random.binomial(3, 0.05 + 0.85 * taste * weights[:, 0]).astype(float)
        truth = 3 * (0.05 + 0.85 * taste * others[:, 0])
        ratio = log_density(draws, *target) - log_density(draws, *logged)
        return reward, ratio.sum(axis=1), users, float(truth.mean())


def test_intervals_hold_the_true_value() -> None:
    """In 200 simulated logs the 95 % intervals hold the truth in 181 to 199, the central 99.8 % of such counts."""
    environment = Environment()
    logs = [environment.log(seed) for seed in range(LOGS)]
    truth = float(np.mean([each[-1] for each in logs]))
    found = [estimate_decisions(*log[:-1], min_ess=100) for log in logs]
    rewards = np.concatenate([log[0] for log in logs])
    assert abs(truth - rewards.mean()) > 0.05, "the target is another policy"
    for number in (0, 1):
        held = sum(each.estimates[number].low <= truth <= each.estimates[number].high for each in found)
        assert 181 <= held <= 199
    held = sum(each.difference.low <= truth - rewards.mean() <= each.difference.high for each in found)
    assert 181 <= held <= 199
    assert np.mean([each.difference.standard_error for each in found]) < np.mean(
        [each.estimates[0].standard_error for each in found]
    )


def estimated(log_weight: Floats, reward: Floats | None = None, min_ess: float = 100) -> DecisionEstimates:
    count = len(log_weight)
    rewards = np.arange(count, dtype=np.float64) % 2 if reward is None else reward
    return estimate_decisions(rewards, log_weight, np.arange(count), min_ess)


def test_the_same_posterior_changes_nothing() -> None:
    found = estimated(np.zeros(200))
    assert (found.difference.value, found.difference.standard_error) == (0, 0)
    assert [each.value for each in found.estimates] == [0.5, 0.5]
    assert (found.weights.ess, found.weights.mean, found.p_value, found.warnings) == (200, 1, 1, ())


def test_a_users_executions_are_one_observation() -> None:
    """Every execution four times for its user leaves the interval as it is."""
    random = np.random.default_rng(3)
    log_weight, reward = random.normal(-0.02, 0.2, 300), random.poisson(1, 300).astype(float)
    once = estimated(log_weight, reward)
    again = estimate_decisions(np.tile(reward, 4), np.tile(log_weight, 4), np.tile(np.arange(300), 4), 100)
    assert again.difference.standard_error == pytest.approx(once.difference.standard_error)


@pytest.mark.parametrize(
    ("log_weight", "reward", "says"),
    [
        (np.where(np.arange(300) < 2, 6, -6), None, "effective sample size is 2 of 300 executions, and at least 100"),
        (np.full(300, -np.inf), None, "would have served none of the logged weights"),
        (np.full(300, -0.5), None, "mean weight is 0.607"),
        (np.zeros(300), np.ones(300), "all 300 executions have the reward 1"),
        (np.zeros(1), None, "decisions are of 1 users"),
        (np.where(np.arange(300) < 1, 1e9, 0), None, "effective sample size is 1 of"),
    ],
)
def test_logs_that_cannot_answer_are_refused(log_weight: Floats, reward: Floats | None, says: str) -> None:
    with pytest.raises(Refusal) as refused:
        estimated(log_weight.astype(float), reward)
    assert says in str(refused.value)


def test_few_users_and_few_rewards_are_named() -> None:
    found = estimate_decisions(np.arange(300) == 7, np.zeros(300), np.arange(300) % 20, 100)
    assert found.warnings == (
        "only 1 executions have a reward: the intervals are too short",
        "only 20 users: the intervals are too short",
    )
