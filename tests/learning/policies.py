"""`python -m tests.learning.policies`: off-policy estimates of simulated logs against their exact truth.

The simulated retrievers draw one of four orderings per execution and log exact propensities. The policies are the first
ordering alone, and the first two with equal probability. Coverage: the share of the seeds whose 95 % interval holds the
truth, for each estimator. The mean of the estimates over the seeds must be the truth, too: the estimators are unbiased.
"""

import argparse
import asyncio
import logging
import math
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from scipy import stats

from deploy.embedded.stack import Stack
from learning.policies import PolicyEvaluation, PolicyRequest, evaluate_policy
from learning.scope import LearningScope
from learning.target_policy import PolicyTable, policy_table
from producers.simulation.expected import enumerate_cells
from producers.simulation.simulator import Simulator
from producers.simulation.timeline import Backfill
from producers.simulation.world import ORDERINGS, RETRIEVERS, the_world
from runtime.clickhouse import ClickHouse
from runtime.settings import Settings
from tests.analytics.loading import load
from tests.lab import lab_of, settings_of_its_own

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
DAYS, RATE, USERS = 7, 0.05, 2_000
"""About 1,000 executions of the retriever for each seed."""
RETRIEVER = "hybrid"
POLICIES: Mapping[str, Mapping[int, float]] = {"first": {0: 1.0}, "first two": {0: 0.5, 1: 0.5}}
"""Probabilities of orderings by number."""
CERTAINTY = 0.999


def entries_of(retriever: str, orderings: Mapping[int, float]) -> list[dict[str, Any]]:
    """Return the policy that draws an ordering with these probabilities."""
    world = the_world()
    number = [each.name for each in RETRIEVERS].index(retriever)
    found: dict[tuple[str, int, str], float] = defaultdict(float)
    for query, lists in zip(world.queries, world.orderings[number], strict=True):
        for ordering, share in orderings.items():
            for position, ranked in enumerate(lists[ordering] if lists else ()):
                found[query.text, position, ranked.document.id] += share
    return [
        {"query": query, "position": position, "document": document, "probability": share}
        for (query, position, document), share in found.items()
    ]


def true_value(retriever: str, orderings: Mapping[int, float], users: int) -> float:
    """Return the exact mean of clicks per shown result under the policy, for the queries and people of the log."""
    found = enumerate_cells(users, {})
    number = [each.name for each in RETRIEVERS].index(retriever)
    runs = found.runs.all[number].sum(axis=1, keepdims=True)  # of query, 1, device, taste, 1: the log draws uniformly
    clicked, shown = found.cells.clicked[number], found.cells.shown[number]
    clicks = sum(share * (runs * clicked[:, [ordering]]).sum() for ordering, share in orderings.items())
    return float(clicks / (runs * shown[:, :1]).sum())


class Figure(NamedTuple):
    """Estimate of one seed."""

    policy: str
    estimator: str
    error: float
    """Estimate less truth."""
    holds: bool
    """Whether the interval holds the truth."""


async def figures(settings: Settings, database: ClickHouse, seeds: range) -> AsyncIterator[Figure]:
    """Yield the estimates of each seed."""
    policies = {name: policy_table(entries_of(RETRIEVER, orderings)) for name, orderings in POLICIES.items()}
    truths = {name: true_value(RETRIEVER, orderings, USERS) for name, orderings in POLICIES.items()}
    logged = true_value(RETRIEVER, dict.fromkeys(range(ORDERINGS), 1 / ORDERINGS), USERS)
    for seed in seeds:
        simulator = Simulator(seed, duplicates=0, clock=lambda: NOON, backfill=Backfill(DAYS, RATE), users=USERS)
        await load(database, f"policy-{seed}", simulator)
        for name, policy in policies.items():
            evaluation = await evaluated(settings, database, f"policy-{seed}", policy)
            for each in evaluation.found.estimates:
                yield Figure(name, each.estimator, each.value - truths[name], each.low <= truths[name] <= each.high)
        each = evaluation.found.logged
        yield Figure("all", each.estimator, each.value - logged, each.low <= logged <= each.high)


async def evaluated(settings: Settings, database: ClickHouse, namespace: str, policy: PolicyTable) -> PolicyEvaluation:
    """Evaluate a policy on a simulated log."""
    scope = LearningScope(namespace, RETRIEVER, NOON - timedelta(days=DAYS + 1), NOON + timedelta(days=1))
    return await evaluate_policy(settings, database, PolicyRequest(scope, policy))


async def _run(stack: Stack, folder: Path, options: argparse.Namespace) -> int:
    """Print coverage and bias of each figure, and return the number of findings."""
    errors: dict[tuple[str, str], list[float]] = defaultdict(list)
    held = Counter[tuple[str, str]]()
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    async with lab_of(settings_of_its_own(stack, folder)) as lab:
        async for each in figures(lab.settings, lab.database, seeds):
            errors[each.policy, each.estimator].append(each.error)
            held[each.policy, each.estimator] += each.holds
    least = int(stats.binom.interval(CERTAINTY, options.seeds, 0.95)[0])
    findings = 0
    for figure, found in errors.items():
        mean = math.fsum(found) / len(found)
        spread = math.sqrt(math.fsum((each - mean) ** 2 for each in found) / max(1, len(found) - 1))
        z = mean / (spread / math.sqrt(len(found)))
        wrong = held[figure] < least or abs(z) > stats.norm.ppf(0.5 + CERTAINTY / 2)
        findings += wrong
        name = f"{figure[0]}, {figure[1]}"
        print(f"{name:<18} held {held[figure]} of {len(found)}, mean error {mean:+.6f} (z {z:+.2f}), sd {spread:.6f}")
    return findings


def main() -> None:
    """Run the campaign, and exit 1 for a finding."""
    parser = argparse.ArgumentParser(prog="python -m tests.learning.policies", description=__doc__)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--first-seed", type=int, default=1)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder, Stack(Settings(data_dir=Path(folder) / "stack")) as stack:
        sys.exit(bool(asyncio.run(_run(stack, Path(folder), options))))


if __name__ == "__main__":
    main()
