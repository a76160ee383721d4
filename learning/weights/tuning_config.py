"""Learning configurations of a retriever by version, and the changed one that a what-if estimate is of."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from learning.scope import Refusal
from learning.weights.config_text import ConfigError, ConfigProblem, as_values, parse_config
from runtime.clickhouse import ClickHouse
from schemas.learning_config import LearningConfig
from schemas.tables import LEARNING_CONFIGS

WITHOUT_EFFECT = ("algorithm", "rollout_pct", "shadow_mode", "circuit_breaker_timeout_ms")
"""Names that say who gets learned weights, and change none of them."""

_VERSIONS = f"""
SELECT version, config FROM {LEARNING_CONFIGS} FINAL
WHERE namespace = {{namespace:String}} AND retriever_id = {{retriever:String}} ORDER BY version
"""


class ConfigVersions(NamedTuple):
    """Configurations of a retriever: each version that was ever in force, and the one in force."""

    known: Mapping[int, LearningConfig]
    """By version. A version that this version of Tally cannot read is absent."""
    version: int
    in_force: LearningConfig


async def read_versions(database: ClickHouse, namespace: str, retriever: str) -> ConfigVersions:
    """Return the configurations of a retriever. Raises Refusal if none is in force; Unavailable."""
    known: dict[int, LearningConfig] = {}
    newest = 0
    parameters = {"namespace": namespace, "retriever": retriever}
    for version, text in await database.rows(_VERSIONS, parameters):
        newest = int(version)
        if text and (config := _read(text)):
            known[newest] = config
    if newest not in known:
        raise Refusal(
            f"retriever {retriever[:60]!r} of namespace {namespace} has no learning configuration in force: there is "
            "nothing to compare with. `tally learn config set` puts one in force"
        )
    return ConfigVersions(known, newest, known[newest])


def _read(text: str) -> LearningConfig | None:
    try:
        return parse_config(json.loads(text))
    except ConfigError:
        return None


def changed_config(config: LearningConfig, changes: Mapping[str, Any]) -> LearningConfig:
    """Return the configuration after changes by name.

    Raises ConfigError for names that do not exist or change no weights, and for values that are not accepted; Refusal
    for contexts without counts.
    """
    for name in changes:
        if name in WITHOUT_EFFECT:
            message = "does not change learned weights, only where they are served"
            raise ConfigError([ConfigProblem((name,), message)])
    found = parse_config({**as_values(config), **changes})
    if found.is_personal and not config.is_personal:
        raise Refusal(
            "counts of users exist only from a configuration with context_features [INPUT.user_id] on: put one in "
            "force, and retry once its counts are there (`tally learn counts`)"
        )
    if found.segment_paths and found.segment_paths != config.segment_paths:
        raise Refusal(
            "counts of segments exist only for the demographic_features of the configuration in force: put these in "
            "force, and retry once their counts are there (`tally learn counts`)"
        )
    return found
