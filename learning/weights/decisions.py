"""Decision: which weights a request is served, and from which context. The same evidence and seed give the same bits.

Levels: personal from min_interactions rewarded interactions on, then the segment from as many on, then all users
together as soon as they have a result, else static weights, which are equal ones.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from heapq import nlargest
from typing import Any, Literal, NamedTuple

import numpy as np

from learning.estimators.posterior import (
    Posterior,
    Shape,
    clipped_weights,
    draw,
    effective_exploration,
    uniform_weights,
    with_session,
)
from learning.weights.counts import Level
from runtime.learning_configs import ConfigInForce
from schemas.interaction import MAX_URI_BYTES
from schemas.learning_config import LearningConfig

StaticReason = Literal["no_config", "rollout", "no_data", "breaker", "too_late", "store"]

ROLLOUT_BUCKETS = 10_000
"""Buckets of users, of which rollout_pct per cent get learned weights: shares are exact to 0.01 %."""
SEED_BITS = 64
MAX_FEATURES = 50
"""Maximum features of a decision. An event names any feature, so the known ones may be many."""
NO_DATA = Posterior({}, 0)

SessionEventCounts = Mapping[tuple[str, int], int]
"""Numbers of events by feature_uri and type set."""


class NoFeatures(Exception):
    """Request without feature_uris that cannot be answered: no features of the retriever are known."""

    def __init__(self, reason: StaticReason) -> None:
        super().__init__(reason)
        self.reason = reason


def without_counts(retriever: str, every_ms: int, parameter: str) -> str:
    """Return the message for a retriever without counted features. `parameter` names features in their place."""
    return (
        f"no counted results of retriever {retriever[:60]!r} have a feature_uri: stored events are counted within "
        f"{every_ms:,} ms (TALLY_AGGREGATES_EVERY_MS), `tally learn counts` shows the state; name {parameter} meanwhile"
    )


class WeightRequest(NamedTuple):
    """Request for the weights of a retriever's features. Empty texts: not given."""

    namespace: str
    retriever: str
    user_id: str = ""
    session_id: str = ""
    segment: str = ""
    """Texts at the paths of demographic_features, joined by SEGMENT_SEPARATOR."""
    features: tuple[str, ...] = ()
    """Empty: those that have results in the window (`main_features`)."""
    execution_id: str = ""
    is_mean: bool = False
    """Whether means are served instead of draws."""


class Evidence(NamedTuple):
    """Posterior of each context of a request, and the events of its session."""

    posteriors: Mapping[Level, Posterior] = {}
    session: SessionEventCounts | None = None

    def of(self, level: Level) -> Posterior:
        """Return the posterior of a level, without features if there is none."""
        return self.posteriors.get(level, NO_DATA)


class Decision(NamedTuple):
    """Weights that are served, and why."""

    weights: dict[str, float]
    """By feature_uri, in the order of the request. Their sum is 1."""
    context: dict[str, Any]
    """`learned_fusion_context` of the answer."""
    learned: dict[str, float]
    """Weights of the draw, which shadow mode does not serve. Empty for static weights."""
    seed: int | None = None
    """Seed of the draw; None for means and static weights."""

    @property
    def label(self) -> tuple[str, str]:
        """Level of the served weights, and reason, as they are counted."""
        if self.context["shadow"]:
            return "static", "shadow"
        return self.context["context_level"], self.context["reason"] or "learned"


def parse_features(text: str) -> tuple[str, ...]:
    """Parse names of features, separated by commas. Raises ValueError."""
    found = tuple(text.split(",")) if text else ()
    if not all(found):
        raise ValueError("a name is empty: separate names by one comma")
    if len(found) > MAX_FEATURES:
        raise ValueError(f"{len(found)} features, at most {MAX_FEATURES} are allowed")
    if len(set(found)) < len(found):
        raise ValueError("a name occurs twice")
    if any(len(each) > MAX_URI_BYTES for each in found):
        raise ValueError(f"a name has more than {MAX_URI_BYTES} characters")
    return found


def is_rolled_out(request: WeightRequest, rollout_pct: float, chance: int) -> bool:
    """Return whether a request gets learned weights: always the same for a user, else for a session or an execution.

    Without all three `chance` decides, a random number of at least 32 bits.
    """
    if rollout_pct >= 100:  # noqa: PLR2004  (per cent; saves a digest)
        return True
    unit = request.user_id or request.session_id or request.execution_id
    number = _digest(request.namespace, request.retriever, unit) if unit else chance
    return number % ROLLOUT_BUCKETS < round(rollout_pct * ROLLOUT_BUCKETS / 100)


def level_of(evidence: Evidence, config: LearningConfig) -> Level | None:
    """Return the level whose posterior is used, or None without data."""
    levels: tuple[Level, ...] = ("personal", "segment")
    for level in levels:
        if evidence.of(level).interactions >= config.min_interactions:
            return level
    return "global" if evidence.of("global").shapes else None


def decide(request: WeightRequest, held: ConfigInForce, evidence: Evidence, strength: float, seed: int) -> Decision:
    """Decide about a request that gets learned weights.

    `strength`: number of observations that a weight counts for against the session's events. `seed` has SEED_BITS.
    Raises NoFeatures.
    """
    config, session = held.config, evidence.session
    level = level_of(evidence, config) or ("global" if session else None)
    if level is None:
        return decide_static(held, "no_data", request.features)
    found = evidence.of(level)
    overlaid = with_session(found, session, config, strength) if session else found
    features = request.features or main_features(overlaid, evidence.of("global"))
    prior = Shape(config.prior_alpha, config.prior_beta)
    shapes = [overlaid.shapes.get(feature, prior) for feature in features]
    exploration = 0.0 if request.is_mean else effective_exploration(config, found.interactions)
    draws = draw(shapes, exploration, None if request.is_mean else np.random.default_rng(seed))
    learned = dict(zip(features, clipped_weights(draws, config), strict=True))
    context = {
        "context_key": context_key(request, level),
        "sampled_weights": dict(zip(features, draws, strict=True)),
        "feature_uris": list(features),
        "effective_exploration": exploration,
        "context_level": level,
        "config_version": held.version,
        "posterior": dict(zip(features, shapes, strict=True)),
        "interactions": found.interactions,
        "session": bool(session),
        "shadow": config.shadow_mode,
        "reason": "",
        "signal_id": "",
    }
    served = _uniform(features) if config.shadow_mode else learned
    return Decision(served, context, learned, None if request.is_mean else seed)


def main_features(*posteriors: Posterior) -> tuple[str, ...]:
    """Return the features of posteriors in the order of their names; of more than MAX_FEATURES those with most data."""
    names = sorted({name for found in posteriors for name in found.shapes})
    if len(names) > MAX_FEATURES:
        none = Shape(0, 0)

        def observations(name: str) -> float:
            return max(sum(found.shapes.get(name, none)) for found in posteriors)

        names = sorted(nlargest(MAX_FEATURES, names, key=observations))
    return tuple(names)


def decide_static(held: ConfigInForce | None, reason: StaticReason, features: Sequence[str]) -> Decision:
    """Decide for equal weights of these features. Raises NoFeatures if there are none."""
    if not features:
        raise NoFeatures(reason)
    context = {
        "context_key": "static",
        "sampled_weights": {},
        "feature_uris": list(features),
        "effective_exploration": 0.0,
        "context_level": "static",
        "config_version": held.version if held else 0,
        "posterior": {},
        "interactions": 0,
        "session": False,
        "shadow": False,
        "reason": reason,
        "signal_id": "",
    }
    return Decision(_uniform(features), context, {})


def context_key(request: WeightRequest, level: Level) -> str:
    """Return the name of the context of a decision. It has a digest in place of the user's id."""
    match level:
        case "personal":
            return f"personal:{_digest(request.namespace, request.retriever, request.user_id):016x}"
        case "segment":
            return f"segment:{request.segment}"
    return "global"


def _digest(*parts: str) -> int:
    """Return 64 bits of BLAKE2b of texts."""
    return int.from_bytes(hashlib.blake2b(json.dumps(parts).encode(), digest_size=8).digest())


def _uniform(features: Sequence[str]) -> dict[str, float]:
    return dict(zip(features, uniform_weights(len(features)), strict=True))
