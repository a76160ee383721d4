"""Learning configurations as JSON: checked, with errors that name the field and what it accepts, and compared."""

import json
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Literal, NamedTuple, get_args, get_origin

from annotated_types import Ge, Le
from pydantic import ValidationError

from runtime.errors import TallyError
from schemas.interaction import INTERACTION_TYPES
from schemas.learning_config import LearningConfig
from schemas.rewards import parse_rewards

NAMES: tuple[str, ...] = tuple(LearningConfig.model_fields)
"""Names of a learning configuration, in their order."""
MAX_SHOWN = 60
"""Largest length in characters of a name that is quoted in a message."""
_LISTS = ("context_features", "demographic_features")


class ConfigProblem(NamedTuple):
    """Part of a learning configuration that is not accepted. An empty location is the whole."""

    location: tuple[str | int, ...]
    message: str


class ConfigError(TallyError):
    """Learning configuration that is not accepted."""

    exit_code = 2

    def __init__(self, problems: Sequence[ConfigProblem]) -> None:
        first = problems[0]
        place = ".".join(map(str, first.location))
        super().__init__(f"{place}: {first.message}" if place else first.message)
        self.problems = problems


class ConfigDifference(NamedTuple):
    """Values of one name in two configurations; None: null, or no configuration."""

    before: Any
    after: Any


def parse_config(value: object) -> LearningConfig:
    """Return the configuration of a JSON value; names that are left out have their defaults. Raises ConfigError."""
    if not isinstance(value, dict):
        raise ConfigError([ConfigProblem((), f"a learning configuration is a JSON object with {', '.join(NAMES)}")])
    try:
        return LearningConfig.model_validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        raise ConfigError([_problem(each["type"], each["loc"], each["msg"]) for each in found]) from None


def _problem(kind: str, location: tuple[str | int, ...], message: str) -> ConfigProblem:
    if not location:  # the JSON has half of a surrogate pair
        return ConfigProblem((), message)
    name, *parts = location
    if kind == "extra_forbidden":
        return unknown_name(str(name), location)
    place = (name, *(each for each in parts if each != "[key]"))
    plain = message.removeprefix("Value error, ")
    must = f"must be {accepted(str(name))}"
    return ConfigProblem(place, f"{plain}; {name} {must}" if parts or kind == "value_error" else must)


def unknown_name(name: str, location: tuple[str | int, ...]) -> ConfigProblem:
    """Return the problem of a name that does not exist, with the names that it may stand for."""
    shown = name[:MAX_SHOWN]
    similar = [known for known in NAMES if shown and known.startswith(shown)] or get_close_matches(shown, NAMES, 1)
    meant = f" (did you mean {' or '.join(similar)}?)" if similar else ""
    return ConfigProblem(location, f"is not a name of a learning configuration{meant}; known are {', '.join(NAMES)}")


def accepted(name: str) -> str:
    """Return the values that a name accepts, as text."""
    if name in _ACCEPTED:
        return _ACCEPTED[name]
    field = LearningConfig.model_fields[name]
    if get_origin(field.annotation) is Literal:
        return " or ".join(map(str, get_args(field.annotation)))
    if field.annotation is bool:
        return "true or false"
    ends = [each.ge if isinstance(each, Ge) else each.le for each in field.metadata if isinstance(each, Ge | Le)]
    least, most = (f"{end:,}".removesuffix(".0") for end in ends)
    return f"{'a whole number' if field.annotation is int else 'a number'} from {least} to {most}"


_ACCEPTED: Mapping[str, str] = {
    "context_features": "a list, empty or of INPUT.user_id",
    "demographic_features": "null, or a list of at most 4 texts such as INPUT.country or CONTEXT.device",
    "reward_signal": f"one of {', '.join(INTERACTION_TYPES)}",
    "reward_map": "null, or an object of rewards from -1,000 to 1,000 by interaction type",
}


def accepted_briefly(name: str) -> str:
    """Return the values that a name accepts, without lists of interaction types."""
    return "an interaction type, such as click" if name == "reward_signal" else accepted(name)


def changed_from_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that are not the defaults, by name."""
    return {name: pair.after for name, pair in differences(as_values(LearningConfig()), values).items()}


def as_values(config: LearningConfig) -> dict[str, Any]:
    """Return a configuration as JSON values, every name included."""
    return config.model_dump(mode="json")


def differences(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> dict[str, ConfigDifference]:
    """Return the names whose values differ; None: no configuration, of which every name is null."""
    known = {**(before or {}), **(after or {})}
    pairs = {name: ConfigDifference((before or {}).get(name), (after or {}).get(name)) for name in known}
    return {name: pair for name, pair in pairs.items() if pair.before != pair.after}


def parse_assignments(texts: Sequence[str]) -> dict[str, Any]:
    """Parse several assignments. Raises ConfigError as parse_assignment does, and for a name that is set twice."""
    found: dict[str, Any] = {}
    for text in texts:
        name, value = parse_assignment(text)
        if name in found:
            raise ConfigError([ConfigProblem((), f"{name} is set twice")])
        found[name] = value
    return found


def parse_assignment(text: str) -> tuple[str, Any]:
    """Parse name=value. The value is JSON; also a plain text, a list with commas, or rewards as click=1,purchase=3.

    Raises ConfigError for a name that is not known, and for a text without `=`.
    """
    name, equals, value = (part.strip() for part in text.partition("="))
    if not equals:
        raise ConfigError([ConfigProblem((), f"{text[:MAX_SHOWN]!r} is not NAME=VALUE")])
    if name not in NAMES:
        raise ConfigError([unknown_name(name, (name[:MAX_SHOWN],))])
    try:
        return name, json.loads(value)
    except (ValueError, RecursionError):
        pass
    if name in _LISTS:
        return name, [each.strip() for each in value.split(",") if each.strip()]
    if name == "reward_map":
        try:
            return name, dict(parse_rewards(value).rewards)
        except ValueError as error:
            raise ConfigError([ConfigProblem((name,), str(error))]) from None
    return name, value
