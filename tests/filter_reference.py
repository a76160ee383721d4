"""The meaning of a filter over records, without a database. SQL must agree with it.

An object of a record may be the JSON text that is stored, or what a client's parser makes of it.
"""

import json
import operator as operators
import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from readers.filter_fields import FILTER_FIELDS, FilterField
from readers.filters import MAX_INTEGER_DIGITS, Condition, Filter, Group, words_of
from schemas.event_time import parse_occurred_at


def holds(filter_: Filter, record: dict[str, Any]) -> bool:
    """Return whether a record meets a filter."""
    if isinstance(filter_, Group):
        return (
            all(holds(each, record) for each in filter_.all_of)
            and (not filter_.any_of or any(holds(each, record) for each in filter_.any_of))
            and not any(holds(each, record) for each in filter_.none_of)
        )
    field, operator = filter_.field, filter_.operator
    if operator == "text" and field.kind == "json" and not field.path:
        return any(str(filter_.values[0]).lower() in text.lower() for text in texts_in(record[field.column]))
    values = _values(field, record)
    if operator in ("exists", "is_null"):
        return any(value is not None for value in values) == (operator == "exists")
    if operator in ("ne", "nin"):
        return not _any(values, filter_, "eq" if operator == "ne" else "in")
    return _any(values, filter_, operator)


def _values(field: FilterField, record: dict[str, Any]) -> list[Any]:
    """The values that a condition is about: several where its path goes through an array."""
    values = [record[field.column]]
    if field.kind == "json":
        values = [json.loads(value) if isinstance(value, str) else value for value in values]
    for key in field.path:
        values = [each[key] for each in _elements(values) if isinstance(each, dict) and key in each]
    if FILTER_FIELDS.get(field.column) == "time":
        return [None if value is None else parse_occurred_at(value) for value in values]
    return values


def _elements(values: list[Any]) -> Iterator[Any]:
    """The values, in the place of an array its elements."""
    for value in values:
        yield from value if isinstance(value, list) else [value]


def texts_in(stored: str | dict[str, Any] | None) -> Iterator[str]:
    """Every text in an object: keys and strings, and numbers and literals as they were written."""
    text = stored if isinstance(stored, str) else json.dumps(stored)
    pairs = json.loads(text, parse_int=str, parse_float=str, object_pairs_hook=_Pairs)
    yield from _texts(pairs) if stored is not None else ()


class _Pairs(list[tuple[str, Any]]):
    """An object with all of its members, also those that a later one hides."""


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, _Pairs):
        for key, member in value:
            yield key
            yield from _texts(member)
    elif isinstance(value, list):
        for element in value:
            yield from _texts(element)
    else:
        yield value if isinstance(value, str) else json.dumps(value)


def _any(values: list[Any], condition: Condition, operator: str) -> bool:
    return any(_one(_number(element), condition, operator) for element in _elements(values))


def _number(value: Any) -> Any:
    """The longest integers count as doubles, perhaps infinite ones."""
    if isinstance(value, int) and abs(value) >= 10**MAX_INTEGER_DIGITS:
        return float(str(value))
    return value


def _kind(value: Any) -> str:
    for kind in (bool, str, datetime):
        if isinstance(value, kind):
            return kind.__name__
    return "number" if isinstance(value, int | float) else "none"


def _one(value: Any, condition: Condition, operator: str) -> bool:
    wanted = [each for each in condition.values if _kind(each) == _kind(value)]
    if not wanted:
        return False
    if operator == "in":
        return value in wanted
    (other,) = wanted
    comparisons = {"eq": operators.eq, "gt": operators.gt, "lt": operators.lt, "gte": operators.ge, "lte": operators.le}
    if operator in comparisons:
        return bool(comparisons[operator](value, other))
    return _text(value, str(other), operator, condition.case_sensitive)


def _text(value: str, other: str, operator: str, case_sensitive: bool) -> bool:
    sensitive = case_sensitive and operator != "text"
    if operator == "regex":
        return re.search(other, value, 0 if sensitive else re.IGNORECASE) is not None
    if not sensitive:
        value, other = value.lower(), other.lower()
    match operator:
        case "contains" | "text":
            return other in value
        case "starts_with":
            return value.startswith(other)
        case "ends_with":
            return value.endswith(other)
        case "words":
            return set(words_of(other)) <= set(words_of(value))
    words, wanted = words_of(value), words_of(other)
    return any(words[at : at + len(wanted)] == wanted for at in range(len(words)))
