"""Filters of a list: their strict parser and their bounds. `filter_sql` translates them to SQL.

A condition compares one field and is true or false, never unknown. Null and missing values are equal to nothing: only
`ne`, `nin`, `is_null` and NOT hold for them. An array (interaction_type, or one in an object) meets a condition if one
of its elements does. Text operators ignore case unless `case_sensitive`; eq, ne, in and nin never do. docs/api.md has
the rules for objects.
"""

import math
import re
from datetime import datetime
from typing import Any, Literal, NamedTuple, get_args

from readers.filter_fields import FilterError, FilterField, field_named, is_plain
from schemas.event_time import from_epoch_ms, parse_time_or_day, to_epoch_ms

Operator = Literal[
    "eq",
    "ne",
    "gt",
    "lt",
    "gte",
    "lte",
    "in",
    "nin",
    "contains",
    "starts_with",
    "ends_with",
    "regex",
    "exists",
    "is_null",
    "text",
    "phrase",
    "words",
]
OPERATORS: tuple[Operator, ...] = get_args(Operator)
TEXT_OPERATORS = frozenset({"contains", "starts_with", "ends_with", "regex", "text", "phrase", "words"})
LIST_OPERATORS = frozenset({"in", "nin"})
PRESENCE_OPERATORS = frozenset({"exists", "is_null"})

MAX_DEPTH = 8
MAX_CONDITIONS = 100
MAX_GROUPS = 400
MAX_VALUES = 1_000
"""Largest number of values in one list."""
MAX_ALL_VALUES = 10_000
MAX_VALUE_BYTES = 64 * 1024
"""Largest size of all texts together."""
MAX_PATTERN_BYTES = 1_024
MAX_WORDS = 32
MAX_INTEGER_DIGITS = 76
"""Largest number of digits of an integer: ClickHouse has no larger type."""

Value = str | int | float | bool | datetime


class Condition(NamedTuple):
    """Comparison of a field with one value; with any number for in and nin, with none for exists and is_null."""

    field: FilterField
    operator: Operator
    values: tuple[Value, ...]
    case_sensitive: bool


class Group(NamedTuple):
    """Filters joined: all of `all_of`, one of `any_of` unless it is empty, and none of `none_of`."""

    all_of: "tuple[Filter, ...]" = ()
    any_of: "tuple[Filter, ...]" = ()
    none_of: "tuple[Filter, ...]" = ()


Filter = Condition | Group


def read_filters(body: Any) -> Group:
    """Parse the filters of a request's body. Raises FilterError."""
    return _Reader().group(body, ["filters"], 1, case_sensitive=False)


class _Reader:
    """Parser of one request's filters, which counts groups, conditions, values and bytes."""

    def __init__(self) -> None:
        self._groups = 0
        self._conditions = 0
        self._values = 0
        self._bytes = 0

    def group(self, body: Any, where: list[str | int], depth: int, *, case_sensitive: bool) -> Group:
        if not isinstance(body, dict):
            raise FilterError(where, "must be an object")
        if depth > MAX_DEPTH:
            raise FilterError(where, f"nests deeper than {MAX_DEPTH} levels")
        self._groups += 1
        if self._groups > MAX_GROUPS:
            raise FilterError(where, f"more than {MAX_GROUPS} groups")
        sensitive = self._sensitive(body, where, case_sensitive)
        found: dict[str, tuple[Filter, ...]] = {}
        for name in ("AND", "OR", "NOT"):
            members = body.get(name)
            if members is None:
                continue
            if not isinstance(members, list):
                raise FilterError([*where, name], "must be a list")
            found[name] = tuple(
                self._member(member, [*where, name, index], depth + 1, sensitive)
                for index, member in enumerate(members)
            )
        short = tuple(
            condition
            for name, value in body.items()
            if name not in ("AND", "OR", "NOT", "case_sensitive")
            for condition in self._short(name, value, [*where, name], sensitive)
        )
        if "OR" in found and not found["OR"]:
            raise FilterError([*where, "OR"], "must not be empty")
        return Group((*found.get("AND", ()), *short), found.get("OR", ()), found.get("NOT", ()))

    def _member(self, body: Any, where: list[str | int], depth: int, case_sensitive: bool) -> Filter:
        if isinstance(body, dict) and "field" in body:
            if unknown := sorted(set(body) - {"field", "operator", "value", "case_sensitive"}):
                raise FilterError([*where, str(unknown[0])], "is not a key of a condition: field, operator, value")
            case_sensitive = self._sensitive(body, where, case_sensitive)
            name, operator = body["field"], body.get("operator") or "eq"
            if not isinstance(name, str):
                raise FilterError([*where, "field"], "must be a string")
            return self._condition(name, operator, body.get("value"), where, case_sensitive)
        return self.group(body, where, depth, case_sensitive=case_sensitive)

    def _sensitive(self, body: dict[str, Any], where: list[str | int], outside: bool) -> bool:
        """Return whether a body is case-sensitive: everything inside a case-sensitive group is.

        The published client writes false wherever its user set nothing.
        """
        inside = body.get("case_sensitive") or False
        if not isinstance(inside, bool):
            raise FilterError([*where, "case_sensitive"], "must be true or false")
        return outside or inside

    def _short(self, name: str, value: Any, where: list[str | int], case_sensitive: bool) -> list[Filter]:
        """Parse the short forms `{"user_id": "u1"}` and `{"position": {"gte": 1, "lte": 5}}`."""
        if isinstance(value, dict):
            if not value:
                raise FilterError(where, f"names no operator; known are {', '.join(OPERATORS)}")
            return [self._condition(name, operator, each, where, case_sensitive) for operator, each in value.items()]
        operator = "in" if isinstance(value, list) else "is_null" if value is None else "eq"
        return [self._condition(name, operator, value, where, case_sensitive)]

    def _condition(
        self, name: str, operator: Any, value: Any, where: list[str | int], case_sensitive: bool
    ) -> Condition:
        self._count(1, where)
        if operator not in OPERATORS:
            raise FilterError(where, f"{str(operator)[:40]!r} is no operator; known are {', '.join(OPERATORS)}")
        field = field_named(name, where)
        if field.kind == "json" and not field.path and operator not in ("text", "exists", "is_null"):
            raise FilterError(
                where, f"of a whole object only text, exists and is_null can be asked: {name}.key for more"
            )
        if operator in PRESENCE_OPERATORS:
            return self._presence(field, operator, value, where)
        if value is None and operator in ("eq", "ne"):
            return Condition(field, "is_null" if operator == "eq" else "exists", (), case_sensitive)
        if operator in LIST_OPERATORS:
            if not isinstance(value, list) or len(value) > MAX_VALUES:
                raise FilterError(where, f"{operator} takes a list of at most {MAX_VALUES} values")
            self._values += len(value)
            if self._values > MAX_ALL_VALUES:
                raise FilterError(where, f"all lists together have more than {MAX_ALL_VALUES} values")
            values = tuple(self._value(field, each, where) for each in value)
        else:
            values = (self._value(field, value, where),)
        if operator in TEXT_OPERATORS:
            _check_text(field, operator, values[0], where)
        if operator == "words":
            self._count(len(words_of(str(values[0]))) - 1, where)
        return Condition(field, operator, values, case_sensitive)

    def _count(self, conditions: int, where: list[str | int]) -> None:
        """Count conditions; each word of `words` is one."""
        self._conditions += conditions
        if self._conditions > MAX_CONDITIONS:
            raise FilterError(where, f"more than {MAX_CONDITIONS} conditions")

    def _presence(self, field: FilterField, operator: Operator, value: Any, where: list[str | int]) -> Condition:
        if value not in (True, False, None):
            raise FilterError(where, f"{operator} takes true or false")
        if value is False:
            operator = "is_null" if operator == "exists" else "exists"
        return Condition(field, operator, (), case_sensitive=False)

    def _value(self, field: FilterField, value: Any, where: list[str | int]) -> Value:
        if isinstance(value, str):
            self._bytes += len(value.encode(errors="replace"))
            if self._bytes > MAX_VALUE_BYTES:
                raise FilterError(where, f"all values together are larger than {MAX_VALUE_BYTES} bytes")
            if not is_plain(value):
                raise FilterError(where, "holds half of a surrogate pair, which no stored text does")
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if is_number and (abs(value) >= 10**MAX_INTEGER_DIGITS if isinstance(value, int) else not math.isfinite(value)):
            raise FilterError(where, f"is out of range: an integer has at most {MAX_INTEGER_DIGITS} digits")
        if field.kind == "time" and isinstance(value, str):
            return _time(value, where)
        wanted = {"text": isinstance(value, str), "texts": isinstance(value, str), "number": is_number}
        if not wanted.get(field.kind, field.kind == "json" and (is_number or isinstance(value, str | bool))):
            raise FilterError(
                where, f"{field.column} cannot be compared with {type(value).__name__} {str(value)[:40]!r}"
            )
        found: Value = value
        return found


def _time(value: str, where: list[str | int]) -> datetime:
    try:
        return from_epoch_ms(to_epoch_ms(parse_time_or_day(value)))  # as stored: whole milliseconds
    except ValueError as error:
        raise FilterError(where, f"{value[:40]!r} {error}") from None


def words_of(text: str) -> list[str]:
    """Return the words of a text: runs of letters, digits and _."""
    return re.findall(r"\w+", text)


def _check_text(field: FilterField, operator: Operator, value: Value, where: list[str | int]) -> None:
    if not isinstance(value, str):
        raise FilterError(where, f"{operator} is for texts, and not for {field.column}")
    if operator == "regex" and not 0 < len(value.encode()) <= MAX_PATTERN_BYTES:
        raise FilterError(where, f"a pattern has 1 to {MAX_PATTERN_BYTES} bytes")
    if operator in ("phrase", "words") and not 0 < len(words_of(value)) <= MAX_WORDS:
        raise FilterError(where, f"holds no word, or more than {MAX_WORDS}")
