"""Recommendations for a learning configuration: a few standard changes, each estimated from the log.

A change is recommended only if the interval of its difference to the log is above 0. The intervals hold together for
all changes that were tried (Bonferroni): of ten useless changes one has a 95 % interval without 0 in four logs of ten.
"""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from learning.estimators.decision_values import LEVEL
from learning.estimators.off_policy import mean_over_groups
from learning.scope import LearningScope, Refusal
from learning.weights.config_text import ConfigError
from learning.weights.tuning import WhatIfEstimate, estimate_target
from learning.weights.tuning_config import ConfigVersions, changed_config, read_versions
from learning.weights.tuning_log import REASONS, DecisionLog, read_decisions
from learning.weights.tuning_target import TargetDraws, target_draws
from runtime.clickhouse import ClickHouse
from runtime.settings import Settings
from schemas.learning_config import LearningConfig
from schemas.rewards import DEFAULT_REWARDS


class StandardChange(NamedTuple):
    """Change of one value of a configuration."""

    name: str
    before: Any
    after: Any
    config: LearningConfig


class TriedChange(NamedTuple):
    """Change with its estimate, or the reason why there is none."""

    change: StandardChange
    estimate: WhatIfEstimate | None
    refusal: str

    def described(self) -> dict[str, Any]:
        """Return the change as plain values."""
        plain = {"name": self.change.name, "in_force": self.change.before, "changed": self.change.after}
        if self.estimate is None:
            return plain
        found = self.estimate.found
        difference = found.difference
        return {
            **plain,
            "difference": difference.value,
            "low": difference.low,
            "high": difference.high,
            "ess": found.weights.ess,
            "recommended": difference.low > 0,
            "warnings": list(found.warnings),
        }


class TuningAnalysis(NamedTuple):
    """Performance of the configuration in force, and the changes that were tried."""

    version: int
    log: DecisionLog
    tried: Sequence[TriedChange]

    def performance(self) -> dict[str, Any]:
        """Return reward per execution of the log with its interval, and every change that was tried."""
        plain: dict[str, Any] = {
            "config_version": self.version,
            "executions": self.log.executions,
            "decisions": len(self.log.decisions),
            "left_out": {name: self.log.left_out[name] for name in REASONS if self.log.left_out[name]},
            **self._reward(),
            "changes": [each.described() for each in self.tried if each.estimate],
            "refused": self._refused(),
        }
        if not self.tried:
            plain["reason"] = "no change that is tried would have changed a weight of the log"
        elif not any(each.estimate for each in self.tried):
            plain["reason"] = "no change that is tried can be estimated, for the reasons in `refused`"
        elif not self.recommended():
            plain["reason"] = "no change has a difference whose interval is above 0"
        return plain

    def _refused(self) -> list[dict[str, Any]]:
        """Return each reason for which changes have no estimate, with these changes."""
        found: dict[str, list[dict[str, Any]]] = {}
        for each in self.tried:
            if each.estimate is None:
                found.setdefault(each.refusal, []).append(each.described())
        return [{"reason": reason, "changes": changes} for reason, changes in found.items()]

    def _reward(self) -> dict[str, float]:
        decisions = self.log.decisions
        unit = np.unique([each.unit for each in decisions], return_inverse=True)[1]
        if len(np.unique(unit)) < 2:  # noqa: PLR2004  (a variance needs two)
            return {}
        reward = np.array([each.reward for each in decisions])
        found = mean_over_groups("logged", reward, np.ones(len(reward)), unit)
        return {"reward_per_execution": found.value, "low": found.low, "high": found.high}

    def recommended(self) -> list[dict[str, Any]]:
        """Return the recommended changes in the published form, the largest difference first."""
        found = [
            (each.estimate.found.difference.value, each.change, each.estimate)
            for each in self.tried
            if each.estimate and each.estimate.found.difference.low > 0
        ]
        found.sort(key=lambda each: (-each[0], each[1].name))
        return [self._recommendation(change, estimate) for _, change, estimate in found]

    def _recommendation(self, change: StandardChange, estimate: WhatIfEstimate) -> dict[str, Any]:
        found, tried = estimate.found, len(self.tried)
        difference, logged = found.difference, found.logged
        notes = "".join(f"; {each}" for each in (*estimate.notes, *found.warnings))
        return {
            "recommendation_type": change.name,
            "current_value": change.before,
            "recommended_value": change.after,
            "expected_impact": f"{difference.value:+.4f} reward per execution ({difference.low:+.4f} to "
            f"{difference.high:+.4f}), {logged.value:.4f} as logged",
            "confidence": _confidence(estimate, tried),
            "reasoning": f"estimated from {found.weights.executions:,} logged decisions of {found.weights.users:,} "
            f"users (effective sample size {found.weights.ess:,.0f}); the intervals of all {tried} changes that were "
            f"tried hold together with 95 %{notes}",
        }


def _confidence(estimate: WhatIfEstimate, tried: int) -> float:
    """Return 1 minus the p-value of the difference, times the number of changes that were tried (Bonferroni)."""
    return max(0.0, 1.0 - tried * estimate.found.p_value)


async def analyze_tuning(settings: Settings, database: ClickHouse, scope: LearningScope) -> TuningAnalysis:
    """Estimate standard changes of the configuration in force that would have changed weights of the log.

    Raises Refusal if there are no configuration and no decisions; RangeTooLarge; Unavailable.
    """
    versions = await read_versions(database, scope.namespace, scope.retriever)
    log = await read_decisions(settings, database, scope, versions.in_force, versions.in_force.rewards)
    changes = list(_standard_changes(versions.in_force))
    tried = await _try_all(settings, database, scope, versions, log, changes)
    return TuningAnalysis(versions.version, log, tried)


async def _try_all(
    settings: Settings,
    database: ClickHouse,
    scope: LearningScope,
    versions: ConfigVersions,
    log: DecisionLog,
    changes: Sequence[StandardChange],
) -> list[TriedChange]:
    drawn = await target_draws(database, scope, log.decisions, [each.config for each in changes], versions.known)
    effective = [(change, draws) for change, draws in zip(changes, drawn, strict=True) if not _is_same(draws)]
    level = 1 - (1 - LEVEL) / max(1, len(effective))
    tried = []
    for change, draws in effective:
        try:
            found = await asyncio.to_thread(estimate_target, log, draws, change.config, settings.min_ess, level)
        except Refusal as refusal:
            tried.append(TriedChange(change, None, str(refusal)))
        else:
            tried.append(TriedChange(change, found, ""))
    return tried


def _is_same(found: TargetDraws) -> bool:
    """Return whether the log's own posteriors and exploration would have been drawn from."""
    return bool(found.draws) and all(
        (each.shapes, each.exploration) == (each.decision.shapes, each.decision.exploration) for each in found.draws
    )


def _standard_changes(config: LearningConfig) -> Iterator[StandardChange]:
    """Yield changes of one value each: half and double, or the default rewards."""
    candidates: list[tuple[str, Any]] = [
        # Half and double the half-life.
        ("decay_factor", round(config.decay_factor**2, 6)),
        ("decay_factor", round(config.decay_factor**0.5, 6)),
        ("exploration_bonus", config.exploration_bonus / 2),
        ("exploration_bonus", config.exploration_bonus * 2),
        ("exploration_floor", config.exploration_floor / 2),
        ("exploration_floor", config.exploration_floor * 2),
        ("reward_map", dict(DEFAULT_REWARDS)),
    ]
    if config.is_personal or config.segment_paths:
        candidates += [
            ("min_interactions", max(1, config.min_interactions // 4)),
            ("min_interactions", config.min_interactions * 4),
        ]
    before = config.model_dump(mode="json")
    for name, value in candidates:
        try:
            changed = changed_config(config, {name: value})
        except ConfigError:  # beyond the range of the value
            continue
        if changed != config:
            yield StandardChange(name, before[name], value, changed)
