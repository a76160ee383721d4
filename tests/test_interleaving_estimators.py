"""Team drafts and anytime-valid shares: laws, and small cases by enumeration."""

import itertools
import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from learning.estimators.interleaving import CONCENTRATION, Credit, DraftedResult, Team, estimate_share, team_draft

RANKINGS = st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=8)
COINS = st.lists(st.sampled_from(["a", "b"]), min_size=20, max_size=20)
OTHER: dict[Credit, Credit] = {"a": "b", "b": "a", "both": "both"}
SIZES = st.integers(1, 10)


def coins_of(text: str) -> list[Team]:
    """Return coins from their letters."""
    return ["a" if letter == "a" else "b" for letter in text]


@given(a=RANKINGS, b=RANKINGS, k=SIZES, coins=COINS)
def test_a_draft_shows_each_document_once_and_each_team_picks_its_best(
    a: list[str], b: list[str], k: int, coins: list[Team]
) -> None:
    first, drafted = team_draft(a, b, k, coins)
    assert first == coins[0]
    documents = [each.document for each in drafted]
    assert len(set(documents)) == len(documents) == min(k, len({*a, *b}))
    for position, (document, team) in enumerate(drafted):
        before = documents[:position]
        best = {name: next((each for each in of if each not in before), None) for name, of in (("a", a), ("b", b))}
        wanted = list(best.values()) if team == "both" else [best[team]]
        assert set(wanted) == {document}
        picked = Counter(each.team for each in drafted[: position + 1])
        if set(documents[: position + 1]) < set(a) and set(documents[: position + 1]) < set(b):
            assert abs(picked["a"] - picked["b"]) <= 1
    shared = sum(each.team == "both" for each in drafted)
    if a[shared:] and b[shared:] and len(drafted) > shared:
        assert drafted[shared].team == first


@given(a=RANKINGS, b=RANKINGS, k=SIZES, coins=COINS)
def test_swapping_rankings_and_coins_swaps_the_teams(a: list[str], b: list[str], k: int, coins: list[Team]) -> None:
    _, drafted = team_draft(a, b, k, coins)
    _, swapped = team_draft(b, a, k, ["b" if coin == "a" else "a" for coin in coins])
    assert swapped == [DraftedResult(document, OTHER[team]) for document, team in drafted]


@given(a=RANKINGS, b=RANKINGS, k=SIZES, more=SIZES, coins=COINS)
def test_a_larger_draft_extends_a_smaller_one(a: list[str], b: list[str], k: int, more: int, coins: list[Team]) -> None:
    assert team_draft(a, b, k + more, coins)[1][:k] == team_draft(a, b, k, coins)[1]


def test_the_teams_of_a_small_draft_are_known() -> None:
    """All coins, written out by hand."""
    a, b = ["x", "y", "z"], ["y", "z", "w"]
    shown = {
        "".join(coins): " ".join(each.document + each.team for each in team_draft(a, b, 4, coins_of("".join(coins)))[1])
        for coins in itertools.product("ab", repeat=3)
    }
    assert {coins: shown[coins + "a"] for coins in ("aa", "ab", "ba", "bb")} == {
        "aa": "xa yb za wb",
        "ab": "xa yb zb wb",
        "ba": "yb xa za wb",
        "bb": "yb xa zb wb",
    }
    assert all(shown[coins + "a"] == shown[coins + "b"] for coins in ("aa", "ab", "ba", "bb"))


def test_equal_rankings_are_shared_and_a_missing_one_is_passed_over() -> None:
    assert {each.team for each in team_draft("abc", "abc", 3, coins_of("abab"))[1]} == {"both"}
    assert [each.team for each in team_draft([], "abc", 3, coins_of("aaaa"))[1]] == ["b"] * 3
    assert team_draft([], [], 3, coins_of("a")) == ("a", [])


def test_too_few_coins_are_an_error() -> None:
    with pytest.raises(ValueError, match="coins"):
        team_draft("ab", "cd", 4, ["a"])


def test_under_the_null_hypothesis_a_click_is_credited_to_either_team_alike() -> None:
    """People who see documents, not teams: over all coins and both assignments of rankings, credit is equal."""
    for a, b in itertools.product(itertools.permutations("wxyz"), repeat=2):
        credit = Counter[tuple[str, str, Credit]]()
        for coins in itertools.product("ab", repeat=4):
            for left, right in ((a, b), (b, a)):
                _, drafted = team_draft(left, right, 4, coins_of("".join(coins)))
                order = "".join(each.document for each in drafted)
                credit.update((order, each.document, each.team) for each in drafted)
        for (order, document, team), count in credit.items():
            assert count == credit[order, document, OTHER[team]]


def mixture(successes: int, trials: int, share: Fraction) -> Fraction:
    """Return the likelihood ratio M(p), as an exact fraction."""
    c = round(CONCENTRATION)

    def beta(first: int, second: int) -> Fraction:
        return Fraction(math.factorial(first - 1) * math.factorial(second - 1), math.factorial(first + second - 1))

    ratio = beta(c + successes, c + trials - successes) / beta(c, c)
    return ratio / (share**successes * (1 - share) ** (trials - successes))


@pytest.mark.parametrize("share", [Fraction(1, 2), Fraction(1, 5)])
def test_the_ratio_is_a_martingale(share: Fraction) -> None:
    """The expectation after one more trial is the present value, exactly, for all counts up to 12."""
    assert mixture(0, 0, share) == 1
    for trials in range(12):
        for successes in range(trials + 1):
            after = mixture(successes + 1, trials + 1, share) * share
            after += mixture(successes, trials + 1, share) * (1 - share)
            assert after == mixture(successes, trials, share)


@given(counts=st.tuples(st.integers(0, 40), st.integers(0, 40)))
def test_the_estimate_is_that_of_the_formula(counts: tuple[int, int]) -> None:
    successes, trials = counts[0], sum(counts)
    found = estimate_share(successes, trials)
    assert found.p_value == pytest.approx(min(1.0, float(1 / mixture(successes, trials, Fraction(1, 2)))), rel=1e-9)
    for end in (found.low, found.high):
        if 0 < end < 1:
            assert math.isclose(mixture(successes, trials, Fraction(end)), 20, rel_tol=1e-6)
    assert found.low <= (0.5 if found.value is None else found.value) <= found.high
    swapped = estimate_share(trials - successes, trials)
    assert (swapped.low, swapped.high) == pytest.approx((1 - found.high, 1 - found.low), abs=1e-12)


@given(counts=st.tuples(st.integers(0, 5_000_000), st.integers(0, 5_000_000)))
def test_the_interval_excludes_a_half_exactly_if_the_p_value_decides(counts: tuple[int, int]) -> None:
    found = estimate_share(counts[0], sum(counts))
    if abs(found.p_value - 0.05) > 1e-6:
        assert (found.p_value <= 0.05) == (not found.low <= 0.5 <= found.high)


@pytest.mark.parametrize("share", [0.5, 0.3, 0.9])
def test_the_probability_of_ever_excluding_the_truth_is_bounded(share: float) -> None:
    """Exact by dynamic programming: the mass of all paths on which no interval of 2,000 has excluded the truth."""
    looks = 2_000
    mass = np.zeros(looks + 1)
    mass[0] = 1.0
    for trials in range(1, looks + 1):
        mass[1:] = mass[1:] * (1 - share) + mass[:-1] * share
        mass[0] *= 1 - share
        successes = np.arange(trials + 1)
        ratio = special.betaln(CONCENTRATION + successes, CONCENTRATION + trials - successes)
        ratio -= special.betaln(CONCENTRATION, CONCENTRATION)
        ratio -= successes * math.log(share) + (trials - successes) * math.log1p(-share)
        mass[: trials + 1][ratio >= math.log(20)] = 0
        if trials % 500 == 0:
            edge = int(np.flatnonzero(mass)[0])
            assert estimate_share(edge, trials).high >= share
            assert edge == 0 or estimate_share(edge - 1, trials).high < share
    assert 0.01 < 1 - mass.sum() <= 0.05


def test_bad_counts_are_an_error() -> None:
    with pytest.raises(ValueError, match="3 successes of 2 trials"):
        estimate_share(3, 2)
