"""Team-draft interleaving, and anytime-valid inference about a share.

A test that is repeated while data arrive rejects a true hypothesis too often, unless its p-value is valid at every
time at once. Here that follows from a martingale (Ville, Etude critique de la notion de collectif, 1939; Robbins,
Statistical methods related to the law of the iterated logarithm, 1970; Howard, Ramdas, McAuliffe and Sekhon,
Time-uniform, nonparametric, nonasymptotic confidence sequences, 2021).
"""

import math
from collections.abc import Iterable, Sequence
from itertools import takewhile
from typing import Literal, NamedTuple

Team = Literal["a", "b"]
Credit = Literal["a", "b", "both"]
"""Team of a result; both: of a result in the common beginning of the rankings."""

LEVEL = 0.95
"""Level of confidence sequences."""
CONCENTRATION = 20.0
"""Parameter c of the mixing distribution Beta(c, c). It tunes power, never validity: shares within about
1 / sqrt(8 c) of 1/2, here 0.42 to 0.58, are found with the fewest observations."""
_BISECTIONS = 60


class DraftedResult(NamedTuple):
    """Document of an interleaved ranking. Its position is its index."""

    document: str
    team: Credit


def team_draft(a: Sequence[str], b: Sequence[str], k: int, coins: Iterable[Team]) -> tuple[Team, list[DraftedResult]]:
    """Interleave two rankings without repeats, up to `k` documents. Return the team that the first coin names, too.

    Team-draft interleaving (Radlinski, Kurup and Joachims, How does clickthrough data reflect retrieval quality?,
    2008): in each round both teams pick their highest document that is not shown yet; a coin decides who picks first.
    A team without documents left is passed over. The common beginning of the rankings precedes the first round, with
    team `both`: the draft would show it in the same order whatever the coins, and credit it by coin alone.

    Each round takes one coin. With the same coins a larger `k` extends the same list. Raises ValueError when the coins
    are too few; k of them are always enough.
    """
    flips = iter(coins)
    first = _next(flips)
    common = [left for left, _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False))][:k]
    drafted = [DraftedResult(document, "both") for document in common]
    shown = set(common)
    rest: dict[Team, Iterable[str]] = {"a": iter(a[len(common) :]), "b": iter(b[len(common) :])}
    begins = first
    while len(drafted) < k:
        before = len(drafted)
        for team in ("a", "b") if begins == "a" else ("b", "a"):
            document = next((each for each in rest[team] if each not in shown), None)
            if document is not None and len(drafted) < k:
                shown.add(document)
                drafted.append(DraftedResult(document, team))
        if len(drafted) == before:
            break
        if len(drafted) < k:
            begins = _next(flips)
    return first, drafted


def _next(coins: Iterable[Team]) -> Team:
    for coin in coins:
        return coin
    raise ValueError("the coins are too few")


class ShareEstimate(NamedTuple):
    """Share of successes, with the ends of its 95 % confidence sequence and a p-value against 1/2.

    Both hold at all times at once: with probability 0.95 every interval of the sequence contains the true share, and a
    p-value of at most alpha ever occurs with probability alpha at most if the share is 1/2.
    """

    successes: int
    trials: int
    value: float | None
    """None without trials."""
    low: float
    high: float
    p_value: float


def estimate_share(successes: int, trials: int, concentration: float = CONCENTRATION) -> ShareEstimate:
    """Estimate the success probability p of trials, whose probability must be p given all earlier ones.

    M(p) = B(c + s, c + f) / B(c, c) / (p^s (1 - p)^f) after s successes and f failures is the likelihood of a mixture
    over Beta(c, c) divided by that of p: a martingale that begins at 1 if p is the truth. By Ville's inequality it ever
    reaches 1 / alpha with probability alpha at most. The p-value is min(1, 1 / M(1/2)); the confidence sequence is the
    set of p with M(p) < 1 / 0.05. The interval excludes 1/2 exactly if the p-value is at most 0.05. Both are functions
    of the counts, not of the order. Raises ValueError for more successes than trials.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes of {trials} trials")
    failures = trials - successes
    mixture = _log_beta(concentration + successes, concentration + failures) - _log_beta(concentration, concentration)
    bound = mixture + math.log(1 - LEVEL)
    low = _crossing(successes, failures, bound)
    high = 1 - _crossing(failures, successes, bound)
    p_value = math.exp(min(0.0, trials * math.log(0.5) - mixture))
    return ShareEstimate(successes, trials, successes / trials if trials else None, low, high, p_value)


def _log_beta(first: float, second: float) -> float:
    return math.lgamma(first) + math.lgamma(second) - math.lgamma(first + second)


def _crossing(successes: int, failures: int, bound: float) -> float:
    """Return the smallest p whose log-likelihood exceeds `bound`; it increases up to the observed share."""
    if not successes:
        return 0.0
    low, high = 0.0, successes / (successes + failures)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        likelihood = successes * math.log(middle) + (failures * math.log1p(-middle) if failures else 0.0)
        low, high = (low, middle) if likelihood > bound else (middle, high)
    return low
