"""The ship gate: what passes, what blocks, and how often a candidate passes that is no better."""

import numpy as np
import pytest
from scipy import stats

from learning.estimators.gate import GateResult, gate

RNG = np.random.default_rng
QUERIES = 60


def simulated(seed: int, lift: float = 0.0, queries: int = QUERIES) -> tuple[list[float], list[float]]:
    """Return values of baseline and candidate: shares of ten with common and own noise, as of real metrics."""
    rng = RNG(seed)
    shared = rng.beta(1.2, 2, queries)
    baseline, candidate = (rng.binomial(10, shared * 0.8 + more) / 10 for more in (0.0, lift))
    return baseline.tolist(), candidate.tolist()


def judged(pairs: dict[str, tuple[list[float], list[float]]], tolerance: float = 0.01) -> GateResult:
    primary, *guards = pairs
    baseline = {name: before for name, (before, _) in pairs.items()}
    candidate = {name: after for name, (_, after) in pairs.items()}
    return gate(baseline, candidate, primary, guards, tolerance)


def test_a_candidate_that_is_no_better_passes_at_most_in_five_percent_of_cases() -> None:
    results = [judged({"ndcg": simulated(seed)}) for seed in range(400)]
    assert sum(result.passed for result in results) <= 20
    assert all(result.metrics["ndcg"].difference.low is not None for result in results)
    with_guards = [
        judged({name: simulated(3 * seed + part) for part, name in enumerate(("ndcg", "map", "mrr"))})
        for seed in range(300)
    ]
    assert sum(result.passed for result in with_guards) <= 2
    assert sum(bool(result.in_state("regressed")) for result in with_guards) <= 25, "primary and guards: 2.5 % each"


def test_a_better_candidate_passes_and_a_fallen_guard_blocks_it() -> None:
    better, same, worse = simulated(1, 0.15, 300), simulated(2, 0.1, 300), simulated(3, 0.15, 300)[::-1]
    assert judged({"ndcg": better, "map": same}).reason == "ndcg rose, and map held"
    blocked = judged({"ndcg": better, "map": same, "mrr": (worse[0], worse[1])})
    assert not blocked.passed
    assert blocked.reason == "regressed: mrr"
    assert [metric.state for metric in blocked.metrics.values()] == ["rose", "held", "regressed"]
    assert not judged({"mrr": (worse[0], worse[1])}).passed
    assert judged({"ndcg": better}).passed, "no guards"


def test_a_wide_interval_is_inconclusive_and_says_how_many_queries_would_decide() -> None:
    result = judged({"ndcg": simulated(1, 0.15, 300), "map": simulated(5, 0.0, 300)})
    guard = result.metrics["map"]
    assert (result.passed, guard.state) == (False, "inconclusive")
    assert result.reason == "too few queries to rule out a drop of more than 0.01: map"
    assert guard.difference.low is not None
    assert guard.difference.high is not None
    assert guard.difference.low < -0.01 < guard.difference.high
    assert judged({"ndcg": simulated(1, 0.15, 300), "map": simulated(5, 0.0, 300)}, tolerance=0.1).passed
    weak = judged({"ndcg": simulated(8, 0.03)}).metrics["ndcg"]
    assert weak.state == "inconclusive"
    assert weak.queries_needed is not None
    assert judged({"ndcg": simulated(9, 0.03, 2 * weak.queries_needed)}).passed


def test_equal_rankings_hold_and_do_not_pass() -> None:
    same = [0.5, 0.25] * 10
    result = judged({"ndcg": (same, same), "map": (same, same)}, tolerance=0.0)
    assert [metric.state for metric in result.metrics.values()] == ["inconclusive", "held"]
    assert result.reason == "ndcg did not rise: its interval contains 0"
    assert result.metrics["ndcg"].queries_needed is None


@pytest.mark.parametrize("queries", [1, 2, 9])
def test_few_queries_decide_nothing(queries: int) -> None:
    result = judged({"ndcg": ([0.0] * queries, [1.0] * queries), "map": ([1.0] * queries, [0.0] * queries)})
    assert not result.passed
    assert result.in_state("inconclusive") == ["ndcg", "map"]
    assert result.reason == f"too few queries to say: {queries}, at least 10 are needed"


def test_ten_equal_rises_pass() -> None:
    assert judged({"ndcg": ([0.0] * 10, [1.0] * 10)}).passed
    assert judged({"ndcg": ([0.0] * 10, [1.0] * 10), "map": ([1.0] * 10, [0.5] * 10)}).reason == "regressed: map"


def test_intervals_and_p_values_are_those_of_the_paired_test() -> None:
    before, after = simulated(11, 0.05)
    found = judged({"ndcg": (before, after)}).metrics["ndcg"].difference
    expected = stats.ttest_rel(after, before, alternative="less")
    interval = stats.ttest_rel(after, before).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.share_below(0.0) == pytest.approx(expected.pvalue)


def test_regressions_are_corrected_for_the_number_of_guards() -> None:
    """A drop with p = 0.02 is one among one guard, and none among five that are level."""
    before, after = [0.5] * 12, [0.5 - step for step in (0.2, -0.1, 0.1, 0.2, 0.0, 0.1, -0.1, 0.2, 0.1, 0.0, 0.1, 0.05)]
    level = simulated(20, 0.0, 12)
    alone = judged({"ndcg": level, "drop": (before, after)}, tolerance=0.0)
    assert 0.005 < alone.metrics["drop"].difference.share_below(0.0) < 0.025
    assert alone.in_state("regressed") == ["drop"]
    steady = {f"g{number}": ([0.5] * 12, [0.5, 0.6] * 6) for number in range(4)}
    assert judged({"ndcg": level, "drop": (before, after), **steady}, tolerance=0.0).in_state("regressed") == []


@pytest.mark.parametrize("tolerance", [-0.1, 1.1, float("nan")])
def test_a_tolerance_outside_the_metrics_range_is_refused(tolerance: float) -> None:
    with pytest.raises(ValueError, match="tolerance"):
        judged({"ndcg": simulated(1)}, tolerance)


@pytest.mark.parametrize(("before", "after"), [(0.8, 0.7), (0.7, 0.6), (0.3, 0.2), (1.0, 0.9)])
def test_a_drop_that_equals_the_tolerance_holds_whatever_its_last_bit(before: float, after: float) -> None:
    found = judged({"p": ([0.1] * 12, [0.5] * 12), "g": ([before] * 12, [after] * 12)}, tolerance=0.1)
    assert (found.passed, found.metrics["g"].state) == (True, "held")
    more = judged({"p": ([0.1] * 12, [0.5] * 12), "g": ([before] * 12, [after - 1e-6] * 12)}, tolerance=0.1)
    assert more.in_state("regressed") == ["g"]
    assert judged({"p": ([0.3] * 12, [0.1 + 0.2] * 12)}).metrics["p"].state == "inconclusive", "a rounding error"
