"""`make interleaving`: error rate and speed of interleaved comparisons in the simulator's world.

Executions are those of the simulation: a query by its frequency, a person's device and taste, one of the four orderings
of a retriever for each ranking, as many results as the device shows, and clicks by the position-based model
(`producers.simulation.behaviour`), in the order of their simulated times.

A/A: both rankings are orderings of the same retriever, drawn independently, and the result is looked at after every
draft. At most 5 % of the runs may ever reject. Power: a known winner b of several strengths, on the same executions as
an A/B test of the share of executions with a click: with a fixed size for 80 % power, and anytime-valid (of the
executions with a click, each arm has half if the arms are equal).
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special, stats

from learning.estimators.interleaving import CONCENTRATION, Credit, Team, estimate_share, team_draft
from learning.interleaving.results import ALPHA, BROKEN_RATIO_P
from producers.simulation.behaviour import DEVICES, MEAN_DELAY_MS, TASTES, Device, Taste, attraction, click_delay_ms
from producers.simulation.world import RETRIEVERS, Ordering, Ranked, the_world

WINNER, LOSER = "hybrid", "keyword"
STRENGTHS = (0.1, 0.25, 0.5, 1.0)
"""Shares of executions for which ranking b is the winner's; else both are the loser's."""
POWER = 0.8
LONGEST = 100_000
"""Executions after which a comparison that is not decided counts as this long."""
Outcomes = npt.NDArray[np.int8]
"""1: a success, 0: a failure, -1: neither."""
_DEVICE_SHARES = [each.share for each in DEVICES]
_TASTE_SHARES = [each.share for each in TASTES]
Say = Callable[[str], None]


class Visit(NamedTuple):
    """Execution of a person."""

    query: int
    device: Device
    taste: Taste


class Searches:
    """Source of executions and of their rankings."""

    def __init__(self, seed: int) -> None:
        self.source = random.Random(seed)
        self._world = the_world()
        self._queries = range(len(self._world.queries))
        self._weights = list(accumulate(query.probability for query in self._world.queries))
        self._numbers = {each.name: number for number, each in enumerate(RETRIEVERS)}

    def visit(self) -> Visit:
        """Draw a query and a person."""
        (query,) = self.source.choices(self._queries, cum_weights=self._weights)
        (device,) = self.source.choices(DEVICES, _DEVICE_SHARES)
        (taste,) = self.source.choices(TASTES, _TASTE_SHARES)
        return Visit(query, device, taste)

    def ranking(self, retriever: str, visit: Visit) -> Ordering:
        """Draw an ordering of a retriever; empty where it finds nothing."""
        lists = self._world.orderings[self._numbers[retriever]][visit.query]
        return self.source.choice(lists) if lists else ()

    def clicks(self, shown: Sequence[Ranked], visit: Visit) -> list[int]:
        """Draw the positions that are clicked, in the order of time."""
        clicked = list[tuple[float, int]]()
        for position, each in enumerate(shown[: visit.device.depth]):
            chance = visit.device.examination(position) * attraction(each.grade, visit.taste, each.feature_uri, 1.0)
            if self.source.random() < chance:
                delay = click_delay_ms(position) + self.source.expovariate(1 / MEAN_DELAY_MS)
                clicked.append((delay, position))
        return [position for _, position in sorted(clicked)]

    def interleaved(self, a: Ordering, b: Ordering, visit: Visit) -> tuple[Team, Credit | None]:
        """Show a draft of two rankings. Return who picked first, and the team that its first counted click credits."""
        depth = visit.device.depth
        coins: Iterator[Team] = ("a" if self.source.random() < 0.5 else "b" for _ in range(depth))
        names_a, names_b = ([each.document.id for each in ranking] for ranking in (a, b))
        first, drafted = team_draft(names_a, names_b, depth, coins)
        ranked = {each.document.id: each for each in (*b, *a)}
        teams = [drafted[place].team for place in self.clicks([ranked[each.document] for each in drafted], visit)]
        return first, next((team for team in teams if team != "both"), None)


def decided_after(outcomes: Outcomes, alpha: float) -> int | None:
    """Return the number of outcomes after which the p-value is first at most `alpha`; None if it never is."""
    trials = np.cumsum(outcomes >= 0)
    successes = np.cumsum(outcomes == 1)
    ratio = special.betaln(CONCENTRATION + successes, CONCENTRATION + trials - successes)
    ratio -= special.betaln(CONCENTRATION, CONCENTRATION) - trials * np.log(2)
    crossed = np.flatnonzero(ratio >= -np.log(alpha))
    if not len(crossed):
        return None
    place = int(crossed[0])
    assert estimate_share(int(successes[place]), int(trials[place])).p_value <= alpha * (1 + 1e-9)
    return place + 1


class NullRun(NamedTuple):
    """Run in which both rankings are equally good."""

    wins: int
    rejected_after: int | None
    ratio_rejected_after: int | None


def null_run(seed: int, drafts: int) -> NullRun:
    """Compare a retriever with itself, and look after every draft."""
    searches = Searches(seed)
    winners, firsts = np.full(drafts, -1, np.int8), np.zeros(drafts, np.int8)
    for number in range(drafts):
        visit = searches.visit()
        first, winner = searches.interleaved(searches.ranking(LOSER, visit), searches.ranking(LOSER, visit), visit)
        firsts[number] = first == "b"
        if winner is not None:
            winners[number] = winner == "b"
    return NullRun(int((winners >= 0).sum()), decided_after(winners, ALPHA), decided_after(firsts, BROKEN_RATIO_P))


class Pool(NamedTuple):
    """Simulated executions, one entry each, that the runs draw from."""

    winner: Outcomes
    """Team credited by the interleaved ranking, 1 for b."""
    clicked: npt.NDArray[np.bool_]
    """Whether the ranking of a, and of b, is clicked when it is shown alone: two columns."""

    @property
    def rates(self) -> npt.NDArray[np.float64]:
        """Shares of executions with a click, of a and b."""
        return np.asarray(self.clicked.mean(axis=0), np.float64)


def simulated_pool(retriever: str, size: int, seed: int) -> Pool:
    """Simulate executions in which a is the loser's ranking, and b that of a retriever."""
    searches = Searches(seed)
    winner, clicked = np.full(size, -1, np.int8), np.zeros((size, 2), np.bool_)
    for number in range(size):
        visit = searches.visit()
        rankings = searches.ranking(LOSER, visit), searches.ranking(retriever, visit)
        _, team = searches.interleaved(*rankings, visit)
        if team is not None:
            winner[number] = team == "b"
        clicked[number] = [bool(searches.clicks(ranking, visit)) for ranking in rankings]
    return Pool(winner, clicked)


def joined(pools: Sequence[Pool]) -> Pool:
    """Join pools."""
    return Pool(np.concatenate([each.winner for each in pools]), np.concatenate([each.clicked for each in pools]))


def symmetric(pool: Pool) -> Pool:
    """Add the mirror image of each execution, so that a and b are equally good exactly."""
    mirrored = np.where(pool.winner >= 0, 1 - pool.winner, -1).astype(np.int8)
    return joined([pool, Pool(mirrored, pool.clicked[:, ::-1])])


def power_run(better: Pool, equal: Pool, strength: float, source: np.random.Generator) -> tuple[int, int]:
    """Return after how many executions interleaving and the anytime-valid A/B test are decided for b."""
    is_better = source.random(LONGEST) < strength
    draws = [source.integers(len(pool.winner), size=LONGEST) for pool in (better, equal)]
    winner = np.where(is_better, better.winner[draws[0]], equal.winner[draws[1]])
    arm = source.integers(2, size=LONGEST)
    clicked = np.where(is_better, better.clicked[draws[0], arm], equal.clicked[draws[1], arm])
    of_arms = np.where(clicked, arm, -1)
    return decided_after(winner, ALPHA) or LONGEST, decided_after(of_arms, ALPHA) or LONGEST


def fixed_size(rates: npt.NDArray[np.float64]) -> int:
    """Return the executions of a two-proportion test with two-sided level 5 % and 80 % power (Fleiss, 1981)."""
    mean, variances = rates.mean(), rates * (1 - rates)
    critical, wanted = stats.norm.ppf(1 - ALPHA / 2), stats.norm.ppf(POWER)
    spread = critical * np.sqrt(2 * mean * (1 - mean)) + wanted * np.sqrt(variances.sum())
    return 2 * int(np.ceil((spread / (rates[1] - rates[0])) ** 2))


def errors(options: argparse.Namespace, workers: ProcessPoolExecutor, say: Say) -> dict[str, Any]:
    """Count the runs of equal rankings that ever reject."""
    seeds = range(options.first_seed, options.first_seed + options.runs)
    runs = list[NullRun]()
    for run in workers.map(partial(null_run, drafts=options.drafts), seeds, chunksize=5):
        runs.append(run)
        if len(runs) % 100 == 0:
            rejected = sum(each.rejected_after is not None for each in runs)
            say(f"A/A: {len(runs)} of {options.runs} runs, {rejected} rejected")
    rejected = sum(each.rejected_after is not None for each in runs)
    interval = stats.binomtest(rejected, len(runs)).proportion_ci(method="wilson")
    return {
        **{"runs": len(runs), "drafts": options.drafts, "looks": options.drafts},
        "wins": float(np.mean([each.wins for each in runs])),
        **{"rejected": rejected, "share": rejected / len(runs)},
        "interval": [round(float(interval.low), 4), round(float(interval.high), 4)],
        "sample_ratio_rejected": sum(each.ratio_rejected_after is not None for each in runs),
    }


def power(options: argparse.Namespace, workers: ProcessPoolExecutor, say: Say) -> list[dict[str, Any]]:
    """Measure after how many executions known winners are found."""
    parts = 8
    pools = list[Pool]()
    for number, retriever in enumerate((WINNER, LOSER)):
        say(f"power: simulating {options.pool:,} executions of {LOSER} and {retriever}")
        seeds = [10_000_000 + options.first_seed + parts * number + part for part in range(parts)]
        pools.append(joined(list(workers.map(partial(simulated_pool, retriever, options.pool // parts), seeds))))
    better, equal = pools[0], symmetric(pools[1])
    found = []
    for strength in options.strengths:
        source = np.random.default_rng([options.first_seed, round(1_000 * strength)])
        sizes = np.array([power_run(better, equal, strength, source) for _ in range(options.power_runs)])
        rates = strength * better.rates + (1 - strength) * equal.rates
        of_teams = [np.bincount(pool.winner + 1, minlength=3)[1:] / len(pool.winner) for pool in (better, equal)]
        wins = strength * of_teams[0] + (1 - strength) * of_teams[1]
        quantiles = np.quantile(sizes, [0.5, 0.9], axis=0).round().astype(int)
        found.append({
            "strength": strength,
            "preference": round(float(wins[1] / wins.sum()), 4),
            "decided_share": round(float(wins.sum()), 4),
            "rates": [round(float(rate), 4) for rate in rates],
            "interleaving": quantiles[:, 0].tolist(),
            "ab_anytime": quantiles[:, 1].tolist(),
            "ab_fixed": fixed_size(rates),
        })  # fmt: skip
        say(f"power: {found[-1]}")
    return found


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """Parse the options."""
    parser = argparse.ArgumentParser(prog="python -m tests.learning.interleaving", description=__doc__)
    parser.add_argument("--runs", type=int, default=1_000, help="A/A runs; 0: none. Default: 1000.")
    parser.add_argument("--drafts", type=int, default=3_000, help="Drafts, and looks, of each run. Default: 3000.")
    parser.add_argument("--power-runs", type=int, default=300, help="Runs of each strength; 0: none. Default: 300.")
    parser.add_argument("--pool", type=int, default=200_000, help="Simulated executions of each pair. Default: 200000.")
    parser.add_argument("--strengths", type=float, nargs="*", default=STRENGTHS, help="Shares of better executions.")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="Print one JSON object instead of text.")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace, say: Say) -> dict[str, Any]:
    """Run the parts of the campaign."""
    found = dict[str, Any]()
    with ProcessPoolExecutor(options.processes) as workers:
        if options.runs:
            found["errors"] = errors(options, workers, say)
        if options.power_runs:
            found["power"] = power(options, workers, say)
    return found


def findings(found: dict[str, Any]) -> bool:
    """Return whether more runs rejected than 5 % explain, with a certainty of 99.9 %."""
    of_errors = found.get("errors")
    return bool(of_errors and of_errors["rejected"] > stats.binom.ppf(0.999, of_errors["runs"], ALPHA))


def main() -> None:
    """Run the campaign, print what was found, and exit 1 for a finding."""
    options = parsed(None)
    began = time.monotonic()
    found = run(options, lambda line: print(line, file=sys.stderr, flush=True))
    found["seconds"] = round(time.monotonic() - began)
    if options.json:
        print(json.dumps(found))
    else:
        for name, part in found.items():
            print(name, *([f"  {each}" for each in part] if isinstance(part, list) else [f"  {part}"]), sep="\n")
    sys.exit(findings(found))


if __name__ == "__main__":
    main()
