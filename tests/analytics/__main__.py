"""`make analytics`: reports of simulated worlds against their truth, and simulated experiments.

Coverage: the share of the seeds whose 95 % interval holds the truth, for each figure. A/A: experiments without a
difference, in which at most 5 % may find one. Power: experiments with a planted difference of 5 % in attraction, at the
size for which `compare` predicts a power of 80 %.
"""

import argparse
import asyncio
import json
import logging
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scipy import stats

from deploy.embedded.stack import Stack
from runtime.settings import Settings
from schemas.analytics.metrics import EXECUTION_METRICS
from tests.analytics.coverage import covered
from tests.analytics.experiments import experiment, rejections
from tests.lab import Lab, lab_of, settings_of_its_own

LIFT, METRIC = 1.05, "mean_clicks"
"""Planted factor of attraction, and the metric that it changes by the same factor."""
CERTAINTY = 0.999
"""Probability of the range in which a count must be."""


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.analytics", description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="Seeds of the coverage; 0: none. Default: 200.")
    parser.add_argument("--experiments", type=int, default=1_000, help="A/A experiments; 0: none. Default: 1000.")
    parser.add_argument("--users", type=int, default=100, help="Users of each group of an A/A experiment.")
    parser.add_argument("--powered", type=int, default=50, help="Experiments with a planted difference; 0: none.")
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="Print one JSON object instead of text.")
    return parser.parse_args()


def _bounds(count: int, rate: float) -> tuple[int, int]:
    """Return the range of hits that a binomial count is in with CERTAINTY."""
    low, high = stats.binom.interval(CERTAINTY, count, rate)
    return int(low), int(high)


async def _coverage(lab: Lab, options: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    held, made = Counter[str](), Counter[str]()
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    number = 0
    async for seed in covered(lab.settings, lab.database, seeds):
        number += 1
        made.update(seed.keys())
        held.update(name for name, holds in seed.items() if holds)
        if number % 20 == 0:
            share = sum(held.values()) / sum(made.values())
            say(f"coverage: {number} of {options.seeds} seeds, {share:.2%} of the figures")
    often = {name: count for name, count in made.items() if count >= options.seeds / 2}
    low = {name: held[name] for name, count in often.items() if held[name] < _bounds(count, 0.95)[0]}
    return {
        "seeds": options.seeds,
        "figures": len(often),
        "covered": sum(held[name] for name in often) / sum(often.values()),
        "by_figure": {name: [held[name], count] for name, count in sorted(often.items())},
        "too_low": low,
    }


async def _same(lab: Lab, options: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    found, family, split = Counter[str](), 0, 0
    for number in range(options.experiments):
        rows = await experiment(lab.settings, lab.database, options.first_seed + number, options.users)
        found.update(rejections(rows, "p_value"))
        family += bool(rejections(rows, "adjusted_p"))
        split += rows["ctr"]["sample_ratio_p"] < 0.05
        if (number + 1) % 100 == 0:
            say(f"A/A: {number + 1} of {options.experiments}, a difference in {family}")
    most = _bounds(options.experiments, 0.05)[1]
    return {
        "experiments": options.experiments,
        "rejected_by_metric": {metric.name: found[metric.name] for metric in EXECUTION_METRICS},
        "any_after_adjustment": family,
        "most_by_chance": most,
        "too_high": {name: count for name, count in found.items() if count > most},
    }


async def _powered(lab: Lab, options: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    first = 10_000 + options.first_seed
    pilot = await experiment(lab.settings, lab.database, first, 2_000, effect=LIFT - 1)
    users, hits = int(pilot[METRIC]["users_needed"]), 0
    say(f"power: {users:,} users for each group")
    for number in range(options.powered):
        rows = await experiment(lab.settings, lab.database, first + 1 + number, users, lift=LIFT)
        hits += METRIC in rejections(rows, "p_value")
        await lab.database.command("TRUNCATE TABLE interactions")
        if (number + 1) % 10 == 0:
            say(f"power: {hits} of {number + 1}")
    return {"users": users, "experiments": options.powered, "found": hits, "range": _bounds(options.powered, 0.8)}


async def _run(stack: Stack, folder: Path, options: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    async with lab_of(settings_of_its_own(stack, folder)) as lab:
        for name, count, part in (
            ("coverage", options.seeds, _coverage),
            ("same", options.experiments, _same),
            ("power", options.powered, _powered),
        ):
            if count:
                began = time.monotonic()
                found[name] = await part(lab, options, say)
                found[name]["seconds"] = round(time.monotonic() - began)
                await lab.database.command("TRUNCATE TABLE interactions")
    return found


def main() -> None:
    """Run the campaign, print what was found, and exit 1 for a finding."""
    options = _parsed()
    logging.disable(logging.WARNING)

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as folder, Stack(Settings(data_dir=Path(folder) / "stack")) as stack:
        found = asyncio.run(_run(stack, Path(folder), options, say))
    if options.json:
        print(json.dumps(found))
    else:
        for name, part in found.items():
            print(name, *(f"  {key}: {value}" for key, value in part.items()), sep="\n")
    too_low = found.get("coverage", {}).get("too_low")
    power = found.get("power")
    missed = power and not power["range"][0] <= power["found"] <= power["range"][1]
    sys.exit(bool(too_low or found.get("same", {}).get("too_high") or missed))


if __name__ == "__main__":
    main()
