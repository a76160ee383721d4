"""Filters as texts: a comparison such as `field=value`, or the filters of a list call as JSON."""

import json
import re
from collections.abc import Mapping
from typing import Any

from readers.filter_fields import FilterError, FilterField, field_named
from readers.filters import Group, Operator, read_filters
from schemas.json_bounds import MAX_DEPTH, depth_of_text

MAX_FILTER_CHARACTERS = 256 * 1024
_FLAGS = {"true": True, "false": False}
_COMPARISON = re.compile(r"(.*?)(!=|<=|>=|=|<|>)(.*)", re.DOTALL)
_OPERATORS: Mapping[str, Operator] = {"=": "eq", "!=": "ne", "<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}


def read_filter(text: str) -> Group:
    """Read a filter: JSON as in a list call if the text begins with {, else a comparison. Raises FilterError.

    A comparison is a field, one of = != < <= > >= and a value; the first of these signs ends the field. A value of a
    path in an object is compared as a text and, for = and !=, also as a number or flag; for the others as a number if
    it is one.
    """
    if text.startswith("{"):
        return read_filter_json(text)
    found = _COMPARISON.fullmatch(text)
    if found is None:
        signs = " ".join(_OPERATORS)
        raise FilterError([], f"{text[:100]!r} is neither field=value nor a JSON object; signs are {signs}")
    name, sign, value = found.groups()
    return read_filters({"AND": [_comparison(name, field_named(name, [name]), _OPERATORS[sign], value)]})


def _comparison(name: str, field: FilterField, operator: Operator, value: str) -> dict[str, Any]:
    number = _number(value)
    if field.kind == "number":
        if number is None:
            raise FilterError([name], f"{value[:100]!r} is not a number")
        return {"field": name, "operator": operator, "value": number}
    if field.kind != "json":
        return {"field": name, "operator": operator, "value": value}
    if operator not in ("eq", "ne"):
        return {"field": name, "operator": operator, "value": value if number is None else number}
    also = [each for each in (number, _FLAGS.get(value)) if each is not None]
    return {"field": name, "operator": "in" if operator == "eq" else "nin", "value": [value, *also]}


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
