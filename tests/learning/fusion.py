"""`python -m tests.learning.fusion`: the regret of learned weights in a simulated search application.

Learners serve the weights with which a search application ranks by three features, and learn from the clicks on what
it then shows (world: tests/learning/fusion_world.py). Regret is the expected number of clicks lost against the true
coefficients of each user and day (oracle), and against the best fixed weights in hindsight, for each 1,000 searches.
Recovery: searches from the change until the expected clicks of the next 500 searches, and of all later ones, are within
5 % of those of the best fixed weights of the searches after the change. Own best: share of the searches of users with a
taste in which the largest weight is that of their own feature.

Intervals hold 95 % of Student's distribution over the seeds; differences are paired by seed. Exit code 1: with an
interval, Tally's regret is not below that of uniform weights.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.environments import Environment, PeerUnavailable, prepare
from runtime.settings import Settings
from tests.learning.fusion_learners import GivenWeights, ServedWeights, best_fixed, run_learner
from tests.learning.fusion_settings import LEARNERS, PEERS, TALLY, UNIFORM, LearnerSettings, make_learner
from tests.learning.fusion_world import NO_TASTE, Floats, FusionWorld, WorldSize
from tests.learning.ranking import mean_interval

WINDOW, CLOSE = 500, 0.95
"""Searches of a window of the recovery, and the share of the expected clicks from which it is one."""
FOLDER = Path(".tally/bench")
LEAST_SEARCHES = 3_000
TUNING_SEED = 101


class LearnerFigures(NamedTuple):
    """Figures of a learner in one world. Regret: clicks for each 1,000 searches."""

    to_oracle: float
    to_fixed: float
    recovery: float
    """Searches; infinite without recovery."""
    own_best: float


class WorldTruth(NamedTuple):
    """Expected clicks of each search with weights that nobody can know in advance."""

    oracle: Floats
    fixed: Floats
    """Best fixed weights of all searches."""
    halves: Floats
    """Best fixed weights before the change, and best fixed weights after it."""


def truth_of(world: FusionWorld) -> WorldTruth:
    """Return the expectations of the oracle and of the best fixed weights."""
    oracle = run_learner(world, GivenWeights(world.coefficients)).expected
    change, end = world.change, world.size.searches
    halves = np.concatenate(
        [
            world.expected_of(best_fixed(world, 0, change))[:change],
            world.expected_of(best_fixed(world, change, end))[change:],
        ]
    )
    return WorldTruth(oracle, world.expected_of(best_fixed(world, 0, end)), halves)


def figures_of(world: FusionWorld, truth: WorldTruth, served: ServedWeights) -> LearnerFigures:
    """Return the figures of what was served."""
    after = slice(world.change, None)
    taste = world.taste[world.user]
    of_taste = taste != NO_TASTE
    return LearnerFigures(
        1_000 * float((truth.oracle - served.expected).mean()),
        1_000 * float((truth.fixed - served.expected).mean()),
        recovery(served.expected[after], truth.halves[after]),
        float((served.weights.argmax(axis=1) == taste)[of_taste].mean()),
    )


def recovery(expected: Floats, best: Floats) -> float:
    """Return the searches before the first window with at least 95 % of the best expected clicks, else infinity.

    All searches from there on must have 95 %, too: with drift, a window may reach it by chance.
    """
    gained = np.concatenate([[0.0], np.cumsum(expected - CLOSE * best)])
    first = np.arange(len(expected) - WINDOW + 1)
    reached = (gained[first + WINDOW] >= gained[first]) & (gained[-1] >= gained[first])
    return float(reached.argmax()) if reached.any() else float("inf")


def figures_of_seed(
    learners: Mapping[str, LearnerSettings], size: WorldSize, found: Environment | None, seed: int
) -> dict[str, LearnerFigures]:
    """Return the figures of all learners in the world of a seed."""
    world = FusionWorld(seed, size)
    truth = truth_of(world)
    each = {}
    for name, settings in learners.items():
        with make_learner(world, settings, found) as learner:
            each[name] = figures_of(world, truth, run_learner(world, learner))
    return each | dict(_references(world, truth))


def _references(world: FusionWorld, truth: WorldTruth) -> Iterator[tuple[str, LearnerFigures]]:
    """Yield the figures of the oracle and the best fixed weights, whose own weights are not looked at."""
    change, end = world.change, world.size.searches
    for name, expected, weights in (
        ("best fixed weights", truth.fixed, np.tile(best_fixed(world, 0, end), (end, 1))),
        (
            "best fixed weights of each half",
            truth.halves,
            np.repeat([best_fixed(world, 0, change), best_fixed(world, change, end)], [change, end - change], axis=0),
        ),
        ("oracle", truth.oracle, world.coefficients),
    ):
        yield name, figures_of(world, truth, ServedWeights(weights, expected))


def summary(found: Sequence[Mapping[str, LearnerFigures]]) -> dict[str, Any]:
    """Return means, intervals and paired differences over the seeds."""
    tally = np.array([each[TALLY].to_oracle for each in found])
    return {name: _summary([each[name] for each in found], tally) for name in found[0]}


def _summary(figures: Sequence[LearnerFigures], tally: Floats) -> dict[str, Any]:
    to_oracle, to_fixed, searches, own_best = (
        np.array(values)
        for values in zip(
            *((each.to_oracle, each.to_fixed, each.recovery, each.own_best) for each in figures), strict=True
        )
    )
    return {
        "to_oracle": mean_interval(to_oracle)._asdict(),
        "to_fixed": mean_interval(to_fixed)._asdict(),
        "less_tally": mean_interval(to_oracle - tally)._asdict(),
        "recovered": int(np.isfinite(searches).sum()),
        "median_recovery": float(np.median(searches)),
        "own_best": mean_interval(own_best)._asdict(),
    }


def lines(found: Mapping[str, Any]) -> list[str]:
    """Return the results as a table in Markdown."""
    seeds = f"{found['seeds']} seeds of {found['searches']:,} searches"
    text = [
        f"{seeds}, attraction {found['attraction']}: {found['seconds']} s",
        "",
        "| learner | regret to oracle | to best fixed | less Tally's | recovery | recovered | own best |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, each in found["learners"].items():
        median = f"{each['median_recovery']:,.0f}" if np.isfinite(each["median_recovery"]) else "never"
        cells = (
            name,
            *(_text(each[figure]) for figure in ("to_oracle", "to_fixed", "less_tally")),
            median,
            f"{each['recovered']} of {found['seeds']}",
            f"{each['own_best']['mean']:.0%}",
        )
        text.append(f"| {' | '.join(cells)} |")
    return text


def _text(each: Mapping[str, float]) -> str:
    if each["high"] - each["low"] < 1e-9:
        return f"{each['mean']:.1f}"
    return f"{each['mean']:.1f} ({each['low']:.1f} to {each['high']:.1f})"


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """Parse the options."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.learning.fusion",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    size = WorldSize()
    parser.add_argument("--seeds", type=int, default=20, help="Worlds, at least 2. Default: 20.")
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--searches", type=int, default=size.searches, help=f"Of each world. Default: {size.searches}.")
    parser.add_argument(
        "--attraction",
        type=float,
        default=size.attraction,
        help=f"Probability of a click on an examined document of relevance 1. Default: {size.attraction}.",
    )
    parser.add_argument("--processes", type=int, default=1, help="Seeds that run at a time. Default: 1.")
    parser.add_argument("--no-peers", action="store_true", help="Leave out mabwiser and Vowpal Wabbit.")
    parser.add_argument("--tune", action="store_true", help=f"Compare settings, on seeds from {TUNING_SEED} on.")
    parser.add_argument("--folder", type=Path, default=FOLDER, help=f"Folder of the peers' environment ({FOLDER}).")
    parser.add_argument("--json", action="store_true", help="Print one JSON object instead of text.")
    options = parser.parse_args(arguments)
    if options.seeds < 2:
        parser.error("--seeds: an interval needs at least 2")
    if options.searches < LEAST_SEARCHES:
        parser.error(f"--searches: at least {LEAST_SEARCHES:,}, from which recovery can be seen")
    if not 0 < options.attraction <= 1:
        parser.error("--attraction: a probability above 0")
    if options.processes < 1:
        parser.error("--processes: at least 1")
    return options


def compared(options: argparse.Namespace, found: Environment | None) -> dict[str, LearnerSettings]:
    """Return the learners that are compared, by name."""
    chosen = {name: each for name, each in LEARNERS.items() if found is not None or name not in PEERS}
    if not options.tune:
        return chosen
    return {TALLY: LEARNERS[TALLY]} | {
        f"{name} {dict(tried)}": LearnerSettings(each.kind, tried)
        for name, each in chosen.items()
        for tried in each.tried
    }


def run(options: argparse.Namespace, found: Environment | None) -> dict[str, Any]:
    """Run all seeds; progress goes to stderr."""
    began = time.monotonic()
    size = WorldSize(options.searches, options.attraction)
    first = TUNING_SEED if options.tune else options.first_seed
    run_seed = partial(figures_of_seed, compared(options, found), size, found)
    results = []
    with ProcessPoolExecutor(options.processes) as pool:
        for each in pool.map(run_seed, range(first, first + options.seeds)):
            results.append(each)
            print(f"seed {len(results)} of {options.seeds}", file=sys.stderr, flush=True)
    return {
        "seeds": options.seeds,
        **size._asdict(),
        "learners": summary(results),
        "seconds": round(time.monotonic() - began),
    }


def peer_environment(options: argparse.Namespace) -> Environment | None:
    """Return the environment of the peers, or None, with the reason on stderr, without it."""
    if options.no_peers:
        return None
    try:
        return prepare("bandits", options.folder, Settings().cache_dir)
    except PeerUnavailable as error:
        print(f"mabwiser and Vowpal Wabbit are skipped: {error}", file=sys.stderr, flush=True)
        return None


def main() -> None:
    """Run the campaign, print the table, and exit 1 if Tally is not better than uniform weights."""
    options = parsed(None)
    found = run(options, peer_environment(options))
    print(json.dumps(found) if options.json else "\n".join(lines(found)))
    sys.exit(not options.tune and found["learners"][UNIFORM]["less_tally"]["low"] <= 0)


if __name__ == "__main__":
    main()
