"""Learning configurations of a retriever by version, and the changed one that a what-if estimate is of."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import ValidationError

from learning.scope import Refusal
from runtime.clickhouse import ClickHouse
from runtime.errors import TallyError
from schemas.learning_config import LearningConfig
from schemas.tables import LEARNING_CONFIGS

WITHOUT_EFFECT = ("algorithm", "rollout_pct", "shadow_mode", "circuit_breaker_timeout_ms")
"""Names that say who gets learned weights, and change none of them."""
CHANGEABLE = tuple(name for name in LearningConfig.model_fields if name not in WITHOUT_EFFECT)

_VERSIONS = f"""
SELECT version, config FROM {LEARNING_CONFIGS} FINAL
WHERE namespace = {{namespace:String}} AND retriever_id = {{retriever:String}} ORDER BY version
"""


class ConfigChangeError(TallyError):
    """Change of a learning configuration that is not valid. `name` is the changed name."""

    exit_code = 2

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{name[:60]}: {message}")
        self.name = name


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
            "nothing to compare with"
        )
    return ConfigVersions(known, newest, known[newest])


def _read(text: str) -> LearningConfig | None:
    try:
        return LearningConfig.model_validate_json(text)
    except ValidationError:
        return None


def changed_config(config: LearningConfig, changes: Mapping[str, Any]) -> LearningConfig:
    """Return the configuration after changes by name.

    Raises ConfigChangeError for names that do not exist or change no weights, and for values that are not allowed;
    Refusal for contexts without counts.
    """
    for name in changes:
        if name in WITHOUT_EFFECT:
            raise ConfigChangeError(name, "does not change learned weights, only where they are served")
        if name not in CHANGEABLE:
            raise ConfigChangeError(name, f"is not one of {', '.join(CHANGEABLE)}")
    plain = {**config.model_dump(mode="json"), **changes}
    try:
        found = LearningConfig.model_validate_json(json.dumps(plain, allow_nan=False))
    except (ValidationError, ValueError) as error:
        raise _change_error(error, changes) from None
    if found.is_personal and not config.is_personal:
        raise Refusal("counts of users exist only from a configuration with context_features [INPUT.user_id] on")
    if found.segment_paths and found.segment_paths != config.segment_paths:
        raise Refusal("counts of segments exist only for the demographic_features of the configuration in force")
    return found


def _change_error(error: ValueError, changes: Mapping[str, Any]) -> ConfigChangeError:
    if not isinstance(error, ValidationError):
        return ConfigChangeError(next(iter(changes)), "is not a finite number")
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    name, *place = map(str, first["loc"])
    return ConfigChangeError(name, f"{'.'.join(place)}{': ' * bool(place)}{first['msg']}")
