"""`python -m tests.learning.ranking`: models learned from exports of simulated logs, by the true grades of the world.

Events of the simulation are stored in ClickHouse, propensities estimated for each device, and a training set exported
as Parquet for each label; LightGBM is trained on the files. The log holds the events of 70 % of the queries; models
rank each retriever's documents for the others, scored by nDCG@10. `logged` is the mean of the orderings that the
retriever shows, `document_score` its own score, `position=` LightGBM's debiasing of raw clicks, `true grades` a model
trained on the grades themselves, which no log has.

Intervals hold 95 % of Student's distribution: over the seeds (other logs of the same world), and over the held-out
queries (others like them), with the mean over the seeds of each query. For the retriever `keyword`, whose order is far
from the truth, `ips` must be better than `click`, and the better of the two better than `logged`, over the seeds.
"""

import argparse
import asyncio
import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from deploy.embedded.stack import Stack
from runtime.settings import Settings
from tests.lab import Lab, lab_of, settings_of_its_own
from tests.learning.held_out import Floats
from tests.learning.ranking_models import RankingScores, scores_of_models, store_log

RETRIEVERS = ("keyword", "dense")
MUST_IMPROVE = "keyword"
"""Retriever whose models must be better than its ranking: its order is far from the truth."""
EXECUTIONS = 20_000
"""Executions of all retrievers and queries: about 5,500 are those of a retriever for training queries, with results.
With half of them the variance of the weights hides the difference of `ips` and `click`.
"""
LEAST_EXECUTIONS = 2_000
DIFFERENCES = (
    ("click", "logged"),
    ("ips", "logged"),
    ("ips", "click"),
    ("position=", "click"),
    ("ips", "position="),
    ("ips", "true grades"),
)
Say = Callable[[str], None]


class MeanInterval(NamedTuple):
    """Mean and 95 % interval."""

    mean: float
    low: float
    high: float


def mean_interval(values: Floats) -> MeanInterval:
    """Return the mean of two or more values with Student's interval."""
    mean, error = float(values.mean()), float(stats.sem(values))
    half = float(stats.t.ppf(0.975, len(values) - 1)) * error
    return MeanInterval(mean, mean - half, mean + half)


def summary(found: Sequence[RankingScores]) -> dict[str, Any]:
    """Return the means and differences of a retriever's rankings, from the scores of each seed."""
    scores = {name: np.array([each.scores[name] for each in found]) for name in found[0].scores}  # seeds, queries
    differences = {f"{one} - {other}": scores[one] - scores[other] for one, other in DIFFERENCES}
    return {
        "held_out_queries": len(found[0].scores["logged"]),
        "training_sets": [each.counts._asdict() for each in found],
        "rankings": {name: mean_interval(values.mean(axis=1))._asdict() for name, values in scores.items()},
        "differences": {
            name: {
                "over_seeds": mean_interval(values.mean(axis=1))._asdict(),
                "over_queries": mean_interval(values.mean(axis=0))._asdict(),
                "seeds": values.mean(axis=1).round(4).tolist(),
            }
            for name, values in differences.items()
        },
    }


def is_finding(part: Mapping[str, Any]) -> bool:
    """Return whether `ips` is not better than `click`, or the better of the two not better than `logged`."""
    over_seeds = {name: each["over_seeds"] for name, each in part["differences"].items()}
    best = max(over_seeds["click - logged"], over_seeds["ips - logged"], key=lambda each: float(each["mean"]))
    return bool(over_seeds["ips - click"]["low"] <= 0 or best["low"] <= 0)


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """Parse the options."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.learning.ranking",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, default=10, help="Logs, at least 2. Default: 10.")
    parser.add_argument(
        "--executions",
        type=int,
        default=EXECUTIONS,
        help=f"Simulated executions of each log, of all retrievers. Default: {EXECUTIONS}.",
    )
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="Print one JSON object instead of text.")
    options = parser.parse_args(arguments)
    if options.seeds < 2:
        parser.error("--seeds: an interval needs at least 2")
    if options.executions < LEAST_EXECUTIONS:
        parser.error(f"--executions: at least {LEAST_EXECUTIONS:,}, from which propensities can be estimated")
    return options


async def scores_of_seed(lab: Lab, folder: Path, seed: int, executions: int) -> dict[str, RankingScores]:
    """Return the scores of each retriever's rankings, learned from one log."""
    await lab.database.command("TRUNCATE TABLE interactions")
    namespace = f"seed-{seed}"
    await store_log(lab.database, namespace, seed, executions, RETRIEVERS)
    return {
        retriever: await scores_of_models(lab.settings, lab.database, namespace, retriever, folder)
        for retriever in RETRIEVERS
    }


async def run(stack: Stack, folder: Path, options: argparse.Namespace, say: Say) -> dict[str, Any]:
    """Run all seeds."""
    began, found = time.monotonic(), {retriever: list[RankingScores]() for retriever in RETRIEVERS}
    async with lab_of(settings_of_its_own(stack, folder)) as lab:
        for number in range(options.seeds):
            scores = await scores_of_seed(lab, folder, options.first_seed + number, options.executions)
            for retriever, each in scores.items():
                found[retriever].append(each)
                means = ", ".join(f"{name} {values.mean():.3f}" for name, values in each.scores.items())
                say(f"seed {number + 1} of {options.seeds}, {retriever}: {means}")
    return {
        "executions": options.executions,
        "seeds": options.seeds,
        "retrievers": {retriever: summary(each) for retriever, each in found.items()},
        "seconds": round(time.monotonic() - began),
    }


def lines(found: Mapping[str, Any]) -> list[str]:
    """Return the results as text."""
    text = [f"{found['seeds']} logs of {found['executions']:,} executions, {found['seconds']} s"]
    for retriever, part in found["retrievers"].items():
        means = {key: np.mean([each[key] for each in part["training_sets"]]) for key in part["training_sets"][0]}
        counts = ", ".join(f"{value:,.0f} {key.replace('_', ' ')}" for key, value in means.items())
        text += ["", f"{retriever}: {part['held_out_queries']} held-out queries; mean training set: {counts}"]
        text += [f"  {name:<20} {_text(each, '.3f')}" for name, each in part["rankings"].items()]
        text.append(f"  {'difference':<20} {'over seeds':<27} over queries")
        for name, each in part["differences"].items():
            text.append(f"  {name:<20} {_text(each['over_seeds'], '+.4f'):<27} {_text(each['over_queries'], '+.4f')}")
    return text


def _text(each: Mapping[str, float], form: str) -> str:
    if each["high"] - each["low"] < 1e-9:
        return f"{each['mean']:{form}} (no model)"
    return f"{each['mean']:{form}} [{each['low']:{form}}, {each['high']:{form}}]"


def main() -> None:
    """Run the campaign, print what was found, and exit 1 for a finding."""
    options = parsed(None)
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as name, Stack(Settings(data_dir=Path(name) / "stack")) as stack:
        found = asyncio.run(run(stack, Path(name), options, lambda line: print(line, file=sys.stderr, flush=True)))
    print(json.dumps(found) if options.json else "\n".join(lines(found)))
    sys.exit(is_finding(found["retrievers"][MUST_IMPROVE]))


if __name__ == "__main__":
    main()
