"""Explanation of weights: what a request would be served now, read from ClickHouse directly, and from which counts."""

import json
import secrets
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from learning.estimators.posterior import DaySums, Shape, draw, posterior_of
from learning.weights.counts import Level, Sums, contexts_of, read_sums
from learning.weights.decisions import (
    SEED_BITS,
    Decision,
    Evidence,
    WeightRequest,
    decide,
    decide_static,
    is_rolled_out,
    main_features,
)
from learning.weights.recording import LEARNED_WEIGHTS
from learning.weights.sessions import SessionReader
from runtime.clickhouse import ClickHouse
from runtime.errors import TallyError
from runtime.http.best_effort import BestEffortRedis
from runtime.learning_configs import ConfigInForce, LearningConfigs
from runtime.session_signals import LiveSession
from runtime.settings import Settings
from schemas.event_time import iso_ms
from schemas.learning_config import LearningConfig
from schemas.rewards import MICROS
from schemas.tables import SIGNALS

_ENDS = (0.025, 0.975)
"""Quantiles at the ends of a 95 % interval."""
_SIGNAL = (
    f"SELECT signal_data, timestamp, execution_id FROM {SIGNALS} WHERE namespace = {{namespace:String}} "
    f"AND retriever_id = {{retriever:String}} AND signal_type = '{LEARNED_WEIGHTS}' AND signal_id = {{signal:String}} "
    "LIMIT 1"
)


class ExplainedWeight(NamedTuple):
    """Weight of a feature, its posterior, and the undecayed sums in the window that it comes from."""

    feature_uri: str
    weight: float
    """As it would be served."""
    draw: float | None
    """None for static weights."""
    mean: float | None
    low: float | None
    """Quantile 0.025 of the posterior."""
    high: float | None
    """Quantile 0.975 of the posterior."""
    alpha: float | None
    beta: float | None
    positive: float
    """Sum of positive rewards."""
    negative: float
    """Absolute sum of negative rewards."""
    unrewarded: int
    """Results that were shown and have no positive reward."""


class ExplainedWeights(NamedTuple):
    """Decision for a request, with what it follows from."""

    decision: Decision
    min_interactions: int
    interactions: dict[Level, int]
    """Rewarded interactions of each context that was tried, the most specific one first."""
    features: list[ExplainedWeight]


class RecomputedDraws(NamedTuple):
    """Recorded decision, and the draws that its posterior, exploration and seed give."""

    recorded: dict[str, Any]
    decided_at: str
    """ISO 8601, UTC."""
    execution_id: str
    """Empty: none was given."""
    draws: dict[str, float]
    """Without a seed, means. Empty for static weights."""

    @property
    def is_equal(self) -> bool | None:
        """Whether the recorded draws are these; None for static weights, which are not drawn."""
        is_static: bool = self.recorded["context_level"] == "static"
        return None if is_static else self.recorded["sampled_weights"] == self.draws


async def explain_weights(
    settings: Settings, database: ClickHouse, request: WeightRequest, day: int
) -> ExplainedWeights:
    """Explain the weights of a request, from the counts up to a day (days since 1970-01-01, UTC).

    Events of the session are counted in the tables. Raises TallyError without a configuration, NoFeatures, and
    Unavailable.
    """
    configs = LearningConfigs(settings, database)
    await configs.refresh()
    held = configs.in_force.get((request.namespace, request.retriever))
    if held is None:
        raise TallyError(
            f"retriever {request.retriever[:60]!r} of namespace {request.namespace} has no learning configuration: "
            "equal weights are served"
        )
    wanted = contexts_of(held.config, request.user_id, request.segment)
    sums = await read_sums(database, request.namespace, request.retriever, wanted, held.config.rewards.in_micros(), day)
    posteriors = {each.level: posterior_of(sums[each], held.config, day) for each in wanted}
    seed = secrets.randbits(SEED_BITS)
    if is_rolled_out(request, held.config.rollout_pct, seed):
        evidence = Evidence(posteriors, await _session(settings, database, request, held))
        decision = decide(request, held, evidence, settings.session_prior_strength, seed)
    else:
        decision = decide_static(held, "rollout", request.features or main_features(posteriors["global"]))
    used = {each.level: sums[each] for each in wanted}.get(decision.context["context_level"], {})
    return ExplainedWeights(
        decision,
        held.config.min_interactions,
        {level: found.interactions for level, found in posteriors.items()},
        [_explained(decision, name, _in_window(used, name, held.config, day)) for name in decision.weights],
    )


async def _session(
    settings: Settings, database: ClickHouse, request: WeightRequest, held: ConfigInForce
) -> Mapping[tuple[str, int], int] | None:
    """Return the events of the session that Redis has, or would have after a loss; None for a session too large."""
    if not request.session_id:
        return None
    session = LiveSession(request.namespace, request.retriever, held.first_version, request.session_id)
    reader = SessionReader(settings, BestEffortRedis(settings), database)
    stored = (await reader.count([session]))[session]
    return None if reader.is_too_large(stored) else stored.counts


async def recompute_draws(database: ClickHouse, namespace: str, retriever: str, signal_id: str) -> RecomputedDraws:
    """Draw again for a recorded decision. Raises TallyError and Unavailable."""
    named = {"namespace": namespace, "retriever": retriever, "signal": signal_id}
    rows = await database.rows(_SIGNAL, named)
    if not rows:
        raise TallyError(f"no decision {signal_id[:60]!r} of retriever {retriever[:60]!r} is recorded")
    ((text, decided_at, execution_id),) = rows
    recorded = json.loads(text)
    shapes = [Shape(*recorded["posterior"][name]) for name in recorded["posterior"]]
    random = np.random.default_rng(int(recorded["seed"], 16)) if "seed" in recorded else None
    draws = draw(shapes, recorded["effective_exploration"], random)
    again = dict(zip(recorded["posterior"], draws, strict=True))
    return RecomputedDraws(recorded, iso_ms(decided_at), execution_id, again)


def _in_window(sums: Sums, feature: str, config: LearningConfig, day: int) -> DaySums:
    """Return the undecayed sums of a feature in the window."""
    found = [each for (name, on), each in sums.items() if name == feature and day - on < config.decay_window_days]
    return DaySums(*map(sum, zip(*found, strict=True))) if found else DaySums()


def _explained(decision: Decision, name: str, sums: DaySums) -> ExplainedWeight:
    shape = decision.context["posterior"].get(name)
    low, high = (float(special.betaincinv(*shape, end)) for end in _ENDS) if shape else (None, None)
    return ExplainedWeight(
        name,
        decision.weights[name],
        decision.context["sampled_weights"].get(name),
        shape.mean if shape else None,
        low,
        high,
        shape.alpha if shape else None,
        shape.beta if shape else None,
        sums.positive / MICROS,
        sums.negative / MICROS,
        sums.unrewarded,
    )
