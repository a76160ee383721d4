"""Parsed filters as a short text, for captions, answers and errors."""

from collections.abc import Iterator, Mapping
from datetime import datetime

from readers.filter_fields import FilterField
from readers.filters import Condition, Filter, Group, Operator, Value
from schemas.event_time import iso_ms

MAX_CHARACTERS = 200
"""Longest text of filters. The end of a longer one is cut."""
_SIGNS: Mapping[Operator, str] = {"eq": "=", "ne": "!=", "gt": ">", "lt": "<", "gte": ">=", "lte": "<="}


def filters_text(filters: Filter) -> str:
    """Return filters as a text of at most MAX_CHARACTERS, such as `metadata.device = ios and position <= 5`."""
    text = " and ".join(map(_text, conjuncts(filters)))
    return text if len(text) <= MAX_CHARACTERS else f"{text[: MAX_CHARACTERS - 1]}…"


def field_name(field: FilterField) -> str:
    """Return the dotted name of a field."""
    return ".".join([field.column, *(key.replace("\\", "\\\\").replace(".", "\\.") for key in field.path)])


def conjuncts(filters: Filter) -> Iterator[Filter]:
    """Yield the filters that must all hold, nested groups taken apart."""
    if isinstance(filters, Condition):
        yield filters
        return
    for each in filters.all_of:
        yield from conjuncts(each)
    if filters.any_of:
        yield Group(any_of=filters.any_of)
    for each in filters.none_of:
        yield Group(none_of=(each,))


def _text(found: Filter) -> str:
    if isinstance(found, Condition):
        return _condition(found)
    if found.any_of:
        return f"({' or '.join(_in_brackets(each) for each in found.any_of)})"
    return f"not {_in_brackets(found.none_of[0])}"


def _in_brackets(found: Filter) -> str:
    parts = list(map(_text, conjuncts(found)))
    return parts[0] if len(parts) == 1 else f"({' and '.join(parts)})"


def _condition(found: Condition) -> str:
    name, operator = field_name(found.field), found.operator
    values = list(dict.fromkeys(map(_value, found.values)))
    if operator in ("in", "nin") and len(values) == 1:
        operator = "eq" if operator == "in" else "ne"
    if operator in ("in", "nin"):
        return f"{name} {'in' if operator == 'in' else 'not in'} ({', '.join(values)})"
    return " ".join([name, _SIGNS.get(operator, operator.replace("_", " ")), *values])


def _value(value: Value) -> str:
    if isinstance(value, datetime):
        return iso_ms(value)
    return str(value).lower() if isinstance(value, bool) else str(value)
