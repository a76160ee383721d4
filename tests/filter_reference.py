"""What a filter means, once more: over the records of an answer, without a database. What SQL must equal."""

import operator as operators
import re
from datetime import datetime
from typing import Any

from readers.filters import FIELDS, Condition, Filter, Group, words_of
from schemas.event_time import parse_occurred_at


def holds(filter_: Filter, record: dict[str, Any]) -> bool:
    """Whether a record meets a filter."""
    if isinstance(filter_, Group):
        return (
            all(holds(each, record) for each in filter_.all_of)
            and (not filter_.any_of or any(holds(each, record) for each in filter_.any_of))
            and not any(holds(each, record) for each in filter_.none_of)
        )
    value = _value(filter_, record)
    match filter_.operator:
        case "exists":
            return value is not None
        case "is_null":
            return value is None
        case "ne":
            return not _any(value, filter_, "eq")
        case "nin":
            return not _any(value, filter_, "in")
    return _any(value, filter_, filter_.operator)


def _value(condition: Condition, record: dict[str, Any]) -> Any:
    value = record[condition.field.column]
    for key in condition.field.path:
        value = value.get(key) if isinstance(value, dict) else None
    if FIELDS.get(condition.field.column) == "time" and value is not None:
        return parse_occurred_at(value)
    return value


def _any(value: Any, condition: Condition, operator: str) -> bool:
    elements = value if isinstance(value, list) else [value]
    return any(_one(element, condition, operator) for element in elements)


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
