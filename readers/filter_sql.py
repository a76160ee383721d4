"""Filters as SQL. Every value and every key of an object is a bound parameter; columns come from a list."""

import re
from collections.abc import Sequence
from datetime import datetime

from readers import json_sql
from readers.filter_fields import FilterField
from readers.filters import Condition, Filter, Group, Operator, Value, words_of
from runtime.clickhouse import BoundParameters
from schemas.event_time import to_epoch_ms

TYPES = {"text": "String", "texts": "String", "number": "Float64", "time": "time"}
_NUMBERS: dict[str, type[float]] = {"Float64": float, "Int256": int}
_COMPARISONS: dict[str, str] = {"eq": "=", "gt": ">", "lt": "<", "gte": ">=", "lte": "<="}
# Word boundaries: RE2's \b supports ASCII only.
_EDGE = r"(?:^|[^\pL\pN_])"
_END = r"(?:$|[^\pL\pN_])"
_GAP = r"[^\pL\pN_]+"


def where(condition: Filter, bind: BoundParameters) -> str:
    """Return an expression that is 1 or 0, never null."""
    if isinstance(condition, Group):
        parts = [where(each, bind) for each in condition.all_of]
        if condition.any_of:
            parts.append(f"({' OR '.join(where(each, bind) for each in condition.any_of)})")
        parts += [f"NOT {where(each, bind)}" for each in condition.none_of]
        return f"({' AND '.join(parts)})" if parts else "1"
    return _condition(condition, bind)


def _condition(condition: Condition, bind: BoundParameters) -> str:
    field, operator, values, case_sensitive = condition
    if operator == "exists":
        return f"NOT {is_absent(field, bind)}"
    if operator == "is_null":
        return is_absent(field, bind)
    if operator == "ne":
        return f"NOT {_holds(field, 'eq', values, bind, case_sensitive)}"
    if operator == "nin":
        return f"NOT {_holds(field, 'in', values, bind, case_sensitive)}"
    return _holds(field, operator, values, bind, case_sensitive)


def is_absent(field: FilterField, bind: BoundParameters) -> str:
    """Return a test whether an event lacks a field."""
    if field.kind == "json":
        if not field.path:
            return f"empty({field.column})"
        return json_sql.is_null(field.column, field.path, bind)
    return "0" if field.kind == "texts" else f"isNull({field.column})"


def _holds(
    field: FilterField, operator: Operator, values: Sequence[Value], bind: BoundParameters, case_sensitive: bool
) -> str:
    if field.kind == "json" and not field.path:
        return json_sql.text_in(field.column, str(values[0]), bind)
    if field.kind == "json":
        return json_sql.any_value(
            field.column,
            field.path,
            operator,
            values,
            bind,
            lambda expression, kind, of_kind: _plain(expression, kind, operator, of_kind, bind, case_sensitive),
        )
    if field.kind == "texts":
        return f"arrayExists(x -> {_plain('x', 'String', operator, values, bind, case_sensitive)}, {field.column})"
    test = _plain(field.column, TYPES[field.kind], operator, values, bind, case_sensitive)
    return f"ifNull({test}, 0)"


def _plain(
    column: str, kind: str, operator: Operator, values: Sequence[Value], bind: BoundParameters, case_sensitive: bool
) -> str:
    if operator == "in":
        return _in(column, kind, values, bind)
    (value,) = values
    if operator in _COMPARISONS:
        return f"({column} {_COMPARISONS[operator]} {bind.bind(value, _type_of(value, kind))})"
    return _text(column, operator, str(value), bind, case_sensitive)


def _type_of(value: Value, kind: str) -> str:
    """Return the type to bind a value as. ClickHouse compares integers of any size with doubles exactly."""
    if kind not in _NUMBERS:
        return kind
    return "Float64" if isinstance(value, float) else "Int256"


def _in(column: str, kind: str, values: Sequence[Value], bind: BoundParameters) -> str:
    members: list[Value] = list(values)
    if kind == "time":
        column, kind = f"toUnixTimestamp64Milli({column})", "Int64"
        members = [to_epoch_ms(value) for value in values if isinstance(value, datetime)]
    elif kind in _NUMBERS:  # members take the column's type; a value that it cannot hold exactly equals none of it
        numbers = [value for value in values if isinstance(value, int | float)]
        members = [exact for value in numbers if (exact := _NUMBERS[kind](value)) == value]
        if kind == "Int256":  # a larger number would be bound as its lowest 256 bits
            members = [value for value in members if isinstance(value, int) and -(2**255) <= value < 2**255]
    return f"({column} IN {bind.bind(members, f'Array({kind})')})" if members else "0"


def _text(column: str, operator: Operator, value: str, bind: BoundParameters, case_sensitive: bool) -> str:
    if operator in ("regex", "phrase", "words"):
        patterns = [value] if operator == "regex" else _patterns(operator, value)
        flags = "" if case_sensitive else "(?i)"
        bound = [bind.bind(flags + pattern, "String") for pattern in patterns]
        # The first match is constant, so an invalid pattern is an error even if no row is read.
        tests = [f"(match('', {pattern}) OR 1) AND match({column}, {pattern})" for pattern in bound]
        return f"({' AND '.join(tests)})"
    text = bind.bind(value, "String")
    if operator in ("contains", "text"):
        sensitive = case_sensitive and operator == "contains"
        return f"({'position' if sensitive else 'positionCaseInsensitiveUTF8'}({column}, {text}) > 0)"
    function = {"starts_with": "startsWith", "ends_with": "endsWith"}[operator]
    return f"{function}({column}, {text})" if case_sensitive else f"{function}(lowerUTF8({column}), lowerUTF8({text}))"


def _patterns(operator: Operator, value: str) -> list[str]:
    words = [re.escape(word) for word in words_of(value)]
    return [_EDGE + _GAP.join(words) + _END] if operator == "phrase" else [_EDGE + word + _END for word in words]
