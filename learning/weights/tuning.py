"""Estimates of the reward that another learning configuration would have had, from the decisions of the log."""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from learning.estimators.decision_values import LEVEL, DecisionEstimates, estimate_decisions
from learning.estimators.posterior import clipped_weights
from learning.estimators.weight_densities import LEAST_LOG_DENSITY, explored, log_density
from learning.scope import LearningScope, Refusal
from learning.weights.counts import Level
from learning.weights.tuning_config import ConfigVersions, changed_config, read_versions
from learning.weights.tuning_log import ADVICE, REASONS, DecisionLog, LeftOut, read_decisions
from learning.weights.tuning_target import TargetDraw, TargetDraws, target_draws
from runtime.clickhouse import ClickHouse
from runtime.settings import Settings
from schemas.learning_config import LearningConfig
from schemas.rewards import RewardMap

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

MIDNIGHT = (
    "weights of the changed configuration are computed as if they were updated at midnight UTC, from the counts of the "
    "days before; those of the log may have used counts of the same day"
)
"""Note of every estimate that uses counts."""
_SEED = 2016


class WhatIfRequest(NamedTuple):
    """Changes of the configuration in force to evaluate on the decisions of a scope."""

    scope: LearningScope
    changes: Mapping[str, Any]
    """Values by the names of the configuration."""
    measure: RewardMap | None = None
    """Rewards by which both configurations are measured. None: those of the configuration in force."""
    min_ess: float | None = None
    """Smallest effective sample size; None: TALLY_MIN_ESS."""


@dataclass(frozen=True)
class MeanWeight:
    """Mean weights of a feature at a level, as served and as the changed configuration would have drawn them."""

    feature_uri: str
    level: Level
    served: float | None
    """None: no decision at this level."""
    served_decisions: int
    expected: float | None
    expected_decisions: int


@dataclass(frozen=True)
class WhatIfEstimate:
    """Estimate of one changed configuration."""

    config: LearningConfig
    found: DecisionEstimates
    weights: tuple[MeanWeight, ...]
    left_out: Mapping[LeftOut, int]
    executions: int
    """Executions of the range, those that are left out included."""
    notes: tuple[str, ...] = field(default=())

    def described(self) -> dict[str, Any]:
        """Return the estimate as plain values."""
        found = self.found
        return {
            "logged": asdict(found.logged),
            "estimates": [asdict(each) for each in found.estimates],
            "difference": asdict(found.difference),
            "decisions": asdict(found.weights),
            "weights": [asdict(each) for each in self.weights],
            "executions": self.executions,
            "left_out": [
                {"reason": name, "meaning": REASONS[name], "executions": self.left_out[name]}
                for name in REASONS
                if self.left_out.get(name)
            ],
            "warnings": list(found.warnings),
            "notes": list(self.notes),
        }


class ComparedConfig(NamedTuple):
    """Configuration in force, the changed one, and the rewards of both."""

    versions: ConfigVersions
    target: LearningConfig
    measure: RewardMap

    def described(self) -> dict[str, Any]:
        """Return version, changes and rewards as plain values."""
        before, after = (each.model_dump(mode="json") for each in (self.versions.in_force, self.target))
        return {
            "config_version": self.versions.version,
            "changes": {
                name: {"in_force": before[name], "changed": after[name]}
                for name in before
                if before[name] != after[name]
            },
            "measure": {"rewards": dict(self.measure.rewards), "max_reward": self.measure.most},
        }


async def estimate_what_if(
    settings: Settings, database: ClickHouse, request: WhatIfRequest, progress: Callable[[str, int], None] | None = None
) -> tuple[ComparedConfig, WhatIfEstimate]:
    """Estimate the reward of a changed configuration. `progress` receives the name of a step and a number.

    Raises ConfigError for a change that is not valid; Refusal where the log cannot answer; RangeTooLarge;
    Unavailable.
    """
    report = progress or (lambda _name, _number: None)
    scope = request.scope
    versions = await read_versions(database, scope.namespace, scope.retriever)
    target = changed_config(versions.in_force, request.changes)
    measure = request.measure or versions.in_force.rewards
    log = await read_decisions(
        settings, database, scope, versions.in_force, measure, lambda read: report("executions read", read)
    )
    (draws,) = await target_draws(
        database, scope, log.decisions, [target], versions.known, lambda done: report("decisions compared", done)
    )
    min_ess = settings.min_ess if request.min_ess is None else request.min_ess
    found = await asyncio.to_thread(estimate_target, log, draws, target, min_ess)
    return ComparedConfig(versions, target, measure), found


def estimate_target(
    log: DecisionLog, drawn: TargetDraws, config: LearningConfig, min_ess: float, level: float = LEVEL
) -> WhatIfEstimate:
    """Estimate the reward of a configuration from its draws. `level`: of the intervals. Raises Refusal."""
    left_out = Counter(log.left_out)
    left_out.update(drawn.left_out)
    if not drawn.draws:
        raise Refusal(_nothing_left(log, left_out))
    flat = _FlatDraws.of(drawn.draws)
    logged = log_density(flat.theta, *flat.logged)
    target = log_density(flat.theta, *flat.target)
    if impossible := np.count_nonzero(logged < LEAST_LOG_DENSITY):
        raise Refusal(
            f"{impossible:,} draws are impossible under the posterior that was sent with "
            "them: learned_fusion_context must be sent as it was received"
        )
    log_weight: Floats = np.bincount(flat.decision, target - logged).astype(np.float64)
    reward = np.array([each.decision.reward for each in drawn.draws])
    unit = np.unique([each.decision.unit for each in drawn.draws], return_inverse=True)[1]
    found = estimate_decisions(reward, log_weight, unit, min_ess, level)
    notes = (MIDNIGHT,) if any(each.shapes is not each.decision.shapes for each in drawn.draws) else ()
    return WhatIfEstimate(config, found, _mean_weights(flat, drawn.draws, config), left_out, log.executions, notes)


def _nothing_left(log: DecisionLog, left_out: Counter[LeftOut]) -> str:
    parts = [f"{left_out[name]:,}: {meaning}" for name, meaning in REASONS.items() if left_out[name]]
    advice = "; ".join(ADVICE[name] for name in REASONS if left_out[name])
    found = f"none of {log.executions:,} executions has a decision that can be compared ({'; '.join(parts)})"
    return f"{found}. To change that: {advice}" if advice else found


class _FlatDraws(NamedTuple):
    """Draws of all features of all decisions, one after the other."""

    theta: Floats
    decision: Integers
    logged: tuple[Floats, Floats]
    target: tuple[Floats, Floats]

    @classmethod
    def of(cls, draws: Sequence[TargetDraw]) -> "_FlatDraws":
        sizes = [len(each.shapes) for each in draws]
        theta = np.array([value for each in draws for value in each.decision.draws])
        logged = np.array([shape for each in draws for shape in each.decision.shapes])
        target = np.array([shape for each in draws for shape in each.shapes])
        before = np.repeat([each.decision.exploration for each in draws], sizes)
        after = np.repeat([each.exploration for each in draws], sizes)
        return cls(
            theta,
            np.repeat(np.arange(len(draws)), sizes),
            (explored(logged[:, 0], before), explored(logged[:, 1], before)),
            (explored(target[:, 0], after), explored(target[:, 1], after)),
        )


def _mean_weights(flat: _FlatDraws, draws: Sequence[TargetDraw], config: LearningConfig) -> tuple[MeanWeight, ...]:
    """Return mean weights by feature and level: those that were served, and of one draw from each target."""
    drawn = iter(np.random.default_rng(_SEED).beta(*flat.target).tolist())
    sums: dict[tuple[str, Level], list[float]] = {}
    for each in draws:
        logged, features = each.decision, each.decision.features
        target = [*islice(drawn, len(features))]
        for offset, level, theta in ((0, logged.level, logged.draws), (2, each.level, target)):
            for name, weight in zip(features, clipped_weights(theta, config), strict=True):
                found = sums.setdefault((name, level), [0.0, 0, 0.0, 0])
                found[offset] += weight
                found[offset + 1] += 1
    return tuple(
        MeanWeight(name, level, _mean(total, count), int(count), _mean(others, other), int(other))
        for (name, level), (total, count, others, other) in sorted(sums.items())
    )


def _mean(total: float, count: float) -> float | None:
    return total / count if count else None
