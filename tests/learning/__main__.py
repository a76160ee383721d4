"""`make learning`: estimates of propensities against the examination that the simulation is made of.

Accuracy: estimate / truth of each position with at least 10,000 impressions, for each method and device, on counts
drawn from the exact expectations of the simulation, and on events stored in ClickHouse. A position is within the
tolerance in 95 % of the logs if its standard error is at most half of it; an error beyond four standard errors is a
finding. Coverage: the share of the seeds whose 95 % interval holds the truth. Refusals: logs that cannot say must be
refused.

Campaigns of their own: `python -m tests.learning.policies` and `python -m tests.learning.ranking`.
"""

import argparse
import asyncio
import itertools
import json
import logging
import math
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from deploy.embedded.stack import Stack
from learning.counts import ClickCounts
from learning.estimators.curve import PropensityCurve, PropensityMethod
from learning.propensities import curves_of, estimate
from learning.scope import Refusal
from producers.simulation.behaviour import DEVICES
from producers.simulation.simulator import Simulator
from runtime.settings import Settings
from tests.analytics.loading import load
from tests.lab import lab_of, settings_of_its_own
from tests.learning.drawn import drawn
from tests.learning.logs import REFUSED, randomised_slots, scope_of, uniform_examination

MODELS: tuple[PropensityMethod, ...] = ("em", "harvesting")
IMPRESSIONS = 10_000
"""Fewest impressions of a position whose accuracy counts."""
Z = 1.959963984540054
CERTAINTY = 0.999
"""Probability of the range in which a count must be."""
RETRIEVER = "dense"
Say = Callable[[str], None]


class Figure(NamedTuple):
    """Estimate of one position, its truth, and the standard error of its logarithm."""

    log: str
    method: str
    segment: str
    position: int
    impressions: int
    value: float
    truth: float
    error: float

    @property
    def ratio(self) -> float:
        """Estimate / truth."""
        return self.value / self.truth

    @property
    def is_held(self) -> bool:
        """Whether the 95 % interval holds the truth."""
        return bool(abs(math.log(self.ratio)) <= Z * self.error)


def figures(log: str, curve: PropensityCurve, truth: Callable[[int], float]) -> Iterator[Figure]:
    """Yield the figures of a curve, without the reference."""
    for point in curve.points[1:]:
        if point.value is not None and point.low is not None and point.high is not None:
            error = math.log(point.high / point.low) / (2 * Z)
            at = point.position, point.impressions, point.value
            yield Figure(log, curve.method, curve.segment, *at, truth(point.position), error)


def drawn_logs(events: int, seed: int) -> Iterator[tuple[str, ClickCounts, Callable[[int], float]]]:
    """Yield the counts and the truth of each device, drawn from the expectations of the simulation."""
    for number, ((name, log), device) in enumerate(zip(drawn(RETRIEVER), DEVICES, strict=True)):
        yield name, log.draw(events, np.random.default_rng([seed, number])), device.examination


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """Parse the options."""
    parser = argparse.ArgumentParser(prog="python -m tests.learning", description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="Seeds of the coverage; 0: none. Default: 200.")
    parser.add_argument("--seed-events", type=int, default=1_000_000, help="Events of each seed. Default: 1000000.")
    parser.add_argument(
        "--events", type=int, nargs="*", default=[1_000_000, 10_000_000], help="Sizes of the logs of the accuracy."
    )
    parser.add_argument(
        "--stored", type=int, default=1_000_000, help="Events stored in ClickHouse for the accuracy; 0: none."
    )
    parser.add_argument("--tolerance", type=float, default=0.05, help="Largest relative error. Default: 0.05.")
    parser.add_argument("--replicates", type=int, default=200, help="Resampled logs of each interval. Default: 200.")
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="Print one JSON object instead of text.")
    return parser.parse_args(arguments)


async def stored_curves(stack: Stack, folder: Path, events: int, seed: int) -> list[PropensityCurve]:
    """Store simulated events in ClickHouse, and estimate with each model."""
    async with lab_of(settings_of_its_own(stack, folder)) as lab:
        await load(lab.database, "default", itertools.islice(Simulator(seed, duplicates=0), events))
        scope = scope_of(RETRIEVER, "device")
        return [each for name in MODELS for each in await estimate(lab.settings, lab.database, scope, name)]


def accuracy(options: argparse.Namespace, say: Say) -> dict[str, Any]:
    """Compare estimates with the truth."""
    found = list[Figure]()
    examination = {device.name: device.examination for device in DEVICES}
    if options.stored:
        say(f"accuracy: storing {options.stored:,} events")
        with tempfile.TemporaryDirectory() as name, Stack(Settings(data_dir=Path(name) / "stack")) as stack:
            curves = asyncio.run(stored_curves(stack, Path(name), options.stored, options.first_seed))
        for curve in curves:
            found += figures(f"{options.stored:,} stored", curve, examination[curve.segment])
    for events in options.events:
        say(f"accuracy: counts of {events:,} events")
        for device, counts, truth in drawn_logs(events, options.first_seed):
            for method in MODELS:
                (curve,) = curves_of({device: counts}, method, options.replicates)
                found += figures(f"{events:,} drawn", curve, truth)
        (curve,) = curves_of({"": randomised_slots(events // 10, options.first_seed)}, "randomised")
        found += figures(f"{events:,} drawn", curve, uniform_examination)
    counted = [each for each in found if each.impressions >= IMPRESSIONS]
    able = [each for each in counted if each.error <= options.tolerance / 2]
    return {
        "worst": {key: max(_errors(each)) for key, each in _grouped(counted).items()},
        "worst_where_the_error_allows": {key: max(_errors(each)) for key, each in _grouped(able).items()},
        "positions": [{**each._asdict(), "ratio": round(each.ratio, 4)} for each in counted],
        "beyond_tolerance": [each._asdict() for each in able if abs(each.ratio - 1) > options.tolerance],
        "beyond_four_errors": [each._asdict() for each in counted if abs(math.log(each.ratio)) > 4 * each.error],
    }


def _grouped(found: list[Figure]) -> dict[str, list[Figure]]:
    groups = dict[str, list[Figure]]()
    for each in found:
        groups.setdefault(f"{each.log}, {each.method}, {each.segment or 'all'}", []).append(each)
    return groups


def _errors(found: list[Figure]) -> list[float]:
    return [round(abs(each.ratio - 1), 4) for each in found]


def coverage(options: argparse.Namespace, say: Say) -> dict[str, Any]:
    """Count the intervals that hold the truth."""
    held, made = Counter[str](), Counter[str]()
    for number in range(options.seeds):
        seed = options.first_seed + number
        found = list[Figure]()
        for device, counts, truth in drawn_logs(options.seed_events, seed):
            for method in MODELS:
                (curve,) = curves_of({device: counts}, method, options.replicates)
                found += figures("", curve, truth)
        slots = randomised_slots(options.seed_events // 10, seed)
        found += figures("", curves_of({"": slots}, "randomised", options.replicates)[0], uniform_examination)
        for each in found:
            name = f"{each.method} {each.segment} {each.position}"
            made[name] += 1
            held[name] += each.is_held
        if (number + 1) % 10 == 0:
            say(f"coverage: {number + 1} of {options.seeds} seeds, {sum(held.values()) / sum(made.values()):.2%}")
    methods = (*MODELS, "randomised")
    return {
        "seeds": options.seeds,
        "events": options.seed_events,
        "covered": {
            method: round(sum(held[name] for name in made if name.startswith(method)) / max(1, total), 4)
            for method in methods
            if (total := sum(made[name] for name in made if name.startswith(method)))
        },
        "by_figure": {name: [held[name], count] for name, count in made.items()},
        "too_low": {
            name: [held[name], count]
            for name, count in made.items()
            if held[name] < int(stats.binom.interval(CERTAINTY, count, 0.95)[0])
        },
    }


def refusals() -> dict[str, Any]:
    """Return the logs that were not refused, or for another reason."""
    wrong = dict[str, str]()
    for name, (counts, method, reason) in REFUSED.items():
        try:
            curves_of({"": counts}, method, 50)
            wrong[name] = "not refused"
        except Refusal as refusal:
            if reason not in str(refusal):
                wrong[name] = str(refusal)
    return {"logs": len(REFUSED), "wrong": wrong}


def run(options: argparse.Namespace, say: Say) -> dict[str, Any]:
    """Run the parts of the campaign."""
    found: dict[str, Any] = {"refusals": refusals()}
    if options.events or options.stored:
        began = time.monotonic()
        found["accuracy"] = accuracy(options, say)
        found["accuracy"]["seconds"] = round(time.monotonic() - began)
    if options.seeds:
        began = time.monotonic()
        found["coverage"] = coverage(options, say)
        found["coverage"]["seconds"] = round(time.monotonic() - began)
    return found


def findings(found: dict[str, Any]) -> bool:
    """Return whether the campaign found a defect."""
    of_accuracy = found.get("accuracy", {})
    return bool(
        found["refusals"]["wrong"] or of_accuracy.get("beyond_four_errors") or found.get("coverage", {}).get("too_low")
    )


def main() -> None:
    """Run the campaign, print what was found, and exit 1 for a finding."""
    options = parsed(None)
    logging.disable(logging.WARNING)
    found = run(options, lambda line: print(line, file=sys.stderr, flush=True))
    if options.json:
        print(json.dumps(found))
    else:
        for name, part in found.items():
            print(name, *(f"  {key}: {value}" for key, value in part.items()), sep="\n")
    sys.exit(findings(found))


if __name__ == "__main__":
    main()
