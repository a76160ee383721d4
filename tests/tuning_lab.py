"""Logs of learned weights whose truth is known: configurations, counts, decisions and events."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from learning.estimators.posterior import (
    Posterior,
    ResultCount,
    Shape,
    clipped_weights,
    draw,
    effective_exploration,
    posterior,
)
from learning.scope import LearningScope
from learning.weights.counts import GLOBAL, ContextKey
from schemas.interaction import Interaction
from schemas.learning_config import LearningConfig
from tests.lab import Lab

RETRIEVER = "fusion"
FEATURES = ("image", "text")
CONFIG = LearningConfig(decay_factor=0.97, context_features=(), exploration_decay=1)
TODAY = (datetime.now(UTC) - datetime(1970, 1, 1, tzinfo=UTC)).days
DAYS = range(TODAY - 5, TODAY)
"""Days of the decisions."""
SINCE = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=TODAY - 6)
UNTIL = SINCE + timedelta(days=6)
NOT_CLICKED, CLICKED = ((1,), (1,)), ((1, 4), (1, 1))
"""Type sets and times of a result that was shown, and of one that was clicked besides."""


def scope(namespace: str = "default", retriever: str = RETRIEVER) -> LearningScope:
    """Return the scope of all decisions."""
    return LearningScope(namespace, retriever, SINCE, UNTIL)


def changing_counts() -> list[ResultCount]:
    """Return counts of 30 days: first the image has more clicks, in the last eight days the text."""
    found = []
    for day in range(TODAY - 30, TODAY):
        for feature in FEATURES:
            clicks = 3 if (feature == "text") == (day >= TODAY - 8) else 1
            found.append(ResultCount(day, feature, *CLICKED, clicks))
            found.append(ResultCount(day, feature, *NOT_CLICKED, 4 - clicks))
    return found


async def configure(lab: Lab, config: LearningConfig = CONFIG, version: int = 1, namespace: str = "default") -> None:
    """Put a version of the configuration in force."""
    await lab.database.command(
        "INSERT INTO learning_configs "
        "SELECT {namespace:String}, {retriever:String}, {version:UInt32}, {config:String}, now()",
        {"namespace": namespace, "retriever": RETRIEVER, "version": version, "config": config.model_dump_json()},
    )


async def store_counts(
    lab: Lab, counts: Mapping[ContextKey, Sequence[ResultCount]], namespace: str = "default"
) -> None:
    """Insert counts, of a generation that is in force."""
    rows = ", ".join(
        f"('{namespace}', '{RETRIEVER}', '{key.level}', '{key.context}', toDate({each.day}), 1, '{each.feature_uri}', "
        f"{list(each.type_sets)}, {list(each.times)}, {each.results})"
        for key, some in counts.items()
        for each in some
    )
    await lab.database.command(f"INSERT INTO learning_counts VALUES {rows}")
    days = {each.day for some in counts.values() for each in some}
    in_force = ", ".join(f"('{namespace}', '{RETRIEVER}', toDate({day}), 1)" for day in sorted(days))
    await lab.database.command(f"INSERT INTO learning_days VALUES {in_force}")


class ServedWeights(NamedTuple):
    """Weights of one execution, and the context that its caller received with them."""

    weights: Mapping[str, float]
    context: dict[str, Any]


def served(random: np.random.Generator, config: LearningConfig, found: Posterior, **more: Any) -> ServedWeights:
    """Draw weights as they are served. `more`: other values of the context."""
    prior = Shape(config.prior_alpha, config.prior_beta)
    shapes = [found.shapes.get(name, prior) for name in FEATURES]
    exploration = effective_exploration(config, found.interactions)
    draws = draw(shapes, exploration, random)
    context: dict[str, Any] = {
        "context_key": "global",
        "context_level": "global",
        "sampled_weights": dict(zip(FEATURES, draws, strict=True)),
        "feature_uris": list(FEATURES),
        "effective_exploration": exploration,
        "config_version": 1,
        "posterior": {name: list(shape) for name, shape in zip(FEATURES, shapes, strict=True)},
        "interactions": found.interactions,
        "session": False,
        "shadow": False,
        "reason": "",
    }
    return ServedWeights(dict(zip(FEATURES, clipped_weights(draws, config), strict=True)), {**context, **more})


def click_chance(weights: Mapping[str, float]) -> float:
    """Return the chance of a click: the more weight the text has, the better."""
    return min(0.95, max(0.05, 0.5 + 3 * (weights["text"] - 0.4)))


def execution(
    number: int, day: int, context: Mapping[str, Any] | None, *types: str, user: str = "", **fields: Any
) -> Iterator[Interaction]:
    """Yield an impression with a context, and an event for each further type."""
    for kind in ("impression", *types):
        plain: dict[str, Any] = {
            "feature_id": "doc",
            "feature_uri": "text",
            "interaction_type": [kind],
            "position": 0,
            "execution_id": f"execution-{number}",
            "retriever_id": RETRIEVER,
            "user_id": user or f"user-{number % 150}",
            "occurred_at": datetime(1970, 1, 1, 12, tzinfo=UTC) + timedelta(days=day, seconds=number),
            "metadata": {"learned_fusion_context": context} if context is not None else {},
        }
        yield Interaction(**(plain | fields))


class KnownLog(NamedTuple):
    """Events of searches, the weights that were served, and the number of clicks."""

    events: list[Interaction]
    weights: list[Mapping[str, float]]
    clicks: int


@cache
def known_log(executions: int, config: LearningConfig = CONFIG, seed: int = 1) -> KnownLog:
    """Return a log of weights that were updated at midnight from `changing_counts`."""
    random = np.random.default_rng(seed)
    counts, events, weights, clicks = changing_counts(), list[Interaction](), list[Mapping[str, float]](), 0
    known = {day: posterior([each for each in counts if each.day < day], config, day) for day in DAYS}
    for number in range(executions):
        day = DAYS[number % len(DAYS)]
        found = served(random, config, known[day])
        is_clicked = random.random() < click_chance(found.weights)
        events += execution(number, day, found.context, *["click"] * is_clicked)
        weights.append(found.weights)
        clicks += is_clicked
    return KnownLog(events, weights, clicks)


def expected_clicks(config: LearningConfig, draws: int = 8_000) -> float:
    """Return the mean chance of a click under a configuration that is updated at midnight."""
    random, counts = np.random.default_rng(99), changing_counts()
    known = [posterior([each for each in counts if each.day < day], config, day) for day in DAYS]
    weights = (served(random, config, known[number % len(known)]).weights for number in range(draws))
    return float(np.mean([click_chance(each) for each in weights]))


async def stored_log(lab: Lab, config: LearningConfig = CONFIG) -> None:
    """Put a configuration in force, with the counts of `changing_counts`."""
    await configure(lab, config)
    await store_counts(lab, {GLOBAL: changing_counts()})
