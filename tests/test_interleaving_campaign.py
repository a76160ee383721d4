"""A slice of `make interleaving`: equal rankings are rarely told apart, known winners soon are."""

import numpy as np
import pytest
from scipy import stats

from learning.estimators.interleaving import estimate_share
from tests.learning.interleaving import (
    LOSER,
    WINNER,
    decided_after,
    findings,
    fixed_size,
    null_run,
    power_run,
    simulated_pool,
    symmetric,
)


def test_equal_rankings_are_rarely_rejected_at_any_look() -> None:
    runs = [null_run(seed, 150) for seed in range(40)]
    rejected = sum(run.rejected_after is not None for run in runs)
    assert rejected <= stats.binom.ppf(0.9999, len(runs), 0.05)
    assert not any(run.ratio_rejected_after for run in runs)
    assert sum(run.wins for run in runs) > 500, "equal rankings are credited, too"


def test_a_known_winner_is_found_sooner_than_by_an_ab_test() -> None:
    better, equal = simulated_pool(WINNER, 3_000, 1), symmetric(simulated_pool(LOSER, 3_000, 2))
    source = np.random.default_rng(3)
    sizes = np.array([power_run(better, equal, 0.5, source) for _ in range(10)])
    interleaved, anytime = np.median(sizes, axis=0)
    assert interleaved < anytime
    assert interleaved < fixed_size(0.5 * better.rates + 0.5 * equal.rates)
    assert (better.winner == 1).sum() > 1.5 * (better.winner == 0).sum()


@pytest.mark.parametrize("alpha", [0.05, 0.001])
def test_the_campaign_decides_where_the_estimate_does(alpha: float) -> None:
    outcomes = np.where(np.random.default_rng(4).random(400) < 0.75, 1, 0).astype(np.int8)
    outcomes[::5] = -1
    place = decided_after(outcomes, alpha)
    assert place is not None

    def p_value(count: int) -> float:
        return estimate_share(int((outcomes[:count] == 1).sum()), int((outcomes[:count] >= 0).sum())).p_value

    assert p_value(place) <= alpha < min(map(p_value, range(1, place)))


def test_the_fixed_size_is_that_of_the_textbook() -> None:
    assert fixed_size(np.array([0.25, 0.40])) == 2 * 152  # Fleiss (1981), two-sided 5 %, power 80 %, uncorrected


def test_too_many_rejections_are_a_finding() -> None:
    assert findings({"errors": {"runs": 1_000, "rejected": 80}})
    assert not findings({"errors": {"runs": 1_000, "rejected": 50}})
    assert not findings({"power": []})
