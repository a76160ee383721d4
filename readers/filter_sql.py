"""What a filter means, in SQL. Every value and every key of an object is bound; columns come from a list."""

import json
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from readers.filters import Condition, Field, Filter, Group, Operator, Value, words_of
from schemas.event_time import to_epoch_ms

TYPES = {"text": "String", "texts": "String", "number": "Float64", "time": "time"}
_COMPARISONS: dict[str, str] = {"eq": "=", "gt": ">", "lt": "<", "gte": ">=", "lte": "<="}
_JSON_KINDS = {
    "String": ("= 'String'", "JSONExtractString(x)"),
    "Bool": ("= 'Bool'", "JSONExtractBool(x)"),
    "Float64": ("IN ('Int64', 'UInt64', 'Double')", "JSONExtractFloat(x)"),
}
"""By the type of a bound value: what JSON calls it, and how it is read."""
# A word's edge: RE2's \b knows ASCII only.
_EDGE = r"(?:^|[^\pL\pN_])"
_END = r"(?:$|[^\pL\pN_])"
_GAP = r"[^\pL\pN_]+"


class Parameters:
    """Bound parameters of one statement, named in turn."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def bind(self, value: Any, kind: str) -> str:
        """A placeholder for a value of a ClickHouse type, or an expression with one: times go as milliseconds."""
        if isinstance(value, datetime):
            return f"fromUnixTimestamp64Milli({self.bind(to_epoch_ms(value), 'Int64')}, 'UTC')"
        name = f"p{len(self.values)}"
        self.values[name] = value
        return f"{{{name}:{kind}}}"


def where(condition: Filter, bind: Parameters) -> str:
    """An expression that is 1 or 0, never null."""
    if isinstance(condition, Group):
        parts = [where(each, bind) for each in condition.all_of]
        if condition.any_of:
            parts.append(f"({' OR '.join(where(each, bind) for each in condition.any_of)})")
        parts += [f"NOT {where(each, bind)}" for each in condition.none_of]
        return f"({' AND '.join(parts)})" if parts else "1"
    return _condition(condition, bind)


def _condition(condition: Condition, bind: Parameters) -> str:
    field, operator, values, case_sensitive = condition
    if operator == "exists":
        return f"NOT {_is_null(field, bind)}"
    if operator == "is_null":
        return _is_null(field, bind)
    if operator == "ne":
        return f"NOT {_holds(field, 'eq', values, bind, case_sensitive)}"
    if operator == "nin":
        return f"NOT {_holds(field, 'in', values, bind, case_sensitive)}"
    return _holds(field, operator, values, bind, case_sensitive)


def _is_null(field: Field, bind: Parameters) -> str:
    if field.kind == "json":
        if not field.path:
            return f"empty({field.column})"
        return f"(JSONType({_place(field, bind)}) = 'Null')"
    return "0" if field.kind == "texts" else f"isNull({field.column})"


def _place(field: Field, bind: Parameters) -> str:
    return ", ".join([field.column, *(bind.bind(key, "String") for key in field.path)])


def _holds(field: Field, operator: Operator, values: Sequence[Value], bind: Parameters, case_sensitive: bool) -> str:
    if field.kind == "json" and not field.path:
        return _anywhere(field.column, str(values[0]), bind)
    if field.kind == "json":
        place = _place(field, bind)
        elements = f"if(JSONType({place}) = 'Array', JSONExtractArrayRaw({place}), [JSONExtractRaw({place})])"
        return f"arrayExists(x -> {_json(operator, values, bind, case_sensitive)}, {elements})"
    if field.kind == "texts":
        return f"arrayExists(x -> {_plain('x', 'String', operator, values, bind, case_sensitive)}, {field.column})"
    test = _plain(field.column, TYPES[field.kind], operator, values, bind, case_sensitive)
    return f"ifNull({test}, 0)"


def _plain(
    column: str, kind: str, operator: Operator, values: Sequence[Value], bind: Parameters, case_sensitive: bool
) -> str:
    if operator == "in":
        if kind == "time":
            bound = bind.bind([to_epoch_ms(value) for value in values if isinstance(value, datetime)], "Array(Int64)")
            return f"(toUnixTimestamp64Milli({column}) IN {bound})" if values else "0"
        return f"({column} IN {bind.bind(list(values), f'Array({kind})')})" if values else "0"
    (value,) = values
    if operator in _COMPARISONS:
        return f"({column} {_COMPARISONS[operator]} {bind.bind(value, kind)})"
    return _text(column, operator, str(value), bind, case_sensitive)


def _text(column: str, operator: Operator, value: str, bind: Parameters, case_sensitive: bool) -> str:
    if operator in ("regex", "phrase", "words"):
        patterns = [value] if operator == "regex" else _patterns(operator, value)
        flags = "" if case_sensitive else "(?i)"
        bound = [bind.bind(flags + pattern, "String") for pattern in patterns]
        # The first is worked out before anything is read: a wrong one is an error though no row is looked at.
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


def _json_kind(value: Value) -> str:
    return "String" if isinstance(value, str) else "Bool" if isinstance(value, bool) else "Float64"


def _anywhere(column: str, value: str, bind: Parameters) -> str:
    """Text in an object as it was written: as itself, or as JSON writes it with escapes."""
    forms = dict.fromkeys([value, json.dumps(value, ensure_ascii=False)[1:-1], json.dumps(value)[1:-1]])
    tests = [f"positionCaseInsensitiveUTF8({column}, {bind.bind(form, 'String')}) > 0" for form in forms]
    return f"({' OR '.join(tests)})"


def _json(operator: Operator, values: Sequence[Value], bind: Parameters, case_sensitive: bool) -> str:
    """A test of `x`, the text of one JSON value, against values: each against a value of its own type."""
    tests = []
    for kind, (type_name, extract) in _JSON_KINDS.items():
        if of_kind := [value for value in values if _json_kind(value) == kind]:
            test = _plain(extract, kind, operator, of_kind, bind, case_sensitive)
            tests.append(f"(JSONType(x) {type_name} AND {test})")
    return f"({' OR '.join(tests)})" if tests else "0"
