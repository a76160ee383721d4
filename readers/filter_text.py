"""Filters as texts: `field=value`, or the filters of a list call as JSON."""

import json
from typing import Any

from readers.filter_fields import FilterError, FilterField, field_named
from readers.filters import Group, read_filters
from schemas.json_bounds import MAX_DEPTH, depth_of_text

MAX_FILTER_CHARACTERS = 256 * 1024
_FLAGS = {"true": True, "false": False}


def read_filter(text: str) -> Group:
    """Read a filter: JSON as in a list call if the text begins with {, else `field=value`. Raises FilterError.

    A value of a path in an object matches as text, and as a number or flag if it is one.
    """
    if text.startswith("{"):
        return read_filter_json(text)
    name, equals, value = text.partition("=")
    if not equals:
        raise FilterError([], f"{text[:100]!r} is neither field=value nor a JSON object")
    return read_filters({"AND": [_equals(name, field_named(name, [name]), value)]})


def _equals(name: str, field: FilterField, value: str) -> dict[str, Any]:
    number = _number(value)
    if field.kind == "number":
        if number is None:
            raise FilterError([name], f"{value[:100]!r} is not a number")
        return {"field": name, "operator": "eq", "value": number}
    if field.kind != "json":
        return {"field": name, "operator": "eq", "value": value}
    also = [each for each in (number, _FLAGS.get(value)) if each is not None]
    return {"field": name, "operator": "in", "value": [value, *also]}


def _number(text: str) -> int | float | None:
    try:
        found = json.loads(text, parse_constant=_refuse_constant)
    except ValueError:
        return None
    return found if isinstance(found, int | float) and not isinstance(found, bool) else None


def read_filter_json(text: str) -> Group:
    """Read the filters of a list call from their JSON text. Raises FilterError."""
    place = ["filters"]
    if len(text) > MAX_FILTER_CHARACTERS:
        raise FilterError(place, f"has more than {MAX_FILTER_CHARACTERS} characters")
    depth = depth_of_text(text)
    if depth > MAX_DEPTH:
        raise FilterError(place, f"nests {depth} levels, at most {MAX_DEPTH} are allowed")
    try:
        body = json.loads(text, parse_constant=_refuse_constant)
    except ValueError as error:
        raise FilterError(place, f"is not JSON: {str(error)[:200]}") from None
    return read_filters(body)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")
