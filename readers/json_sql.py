"""SQL for objects: values at a path, exact numbers, and text search. docs/api.md has the rules.

ClickHouse's JSON functions return the first of two equal keys, reformat every number (1e20 as an integer), and return
an integer of more than 64 bits as a string. So values are read in up to three ways:

- ClickHouse's own lookup, if the text has each key of the path at most once, so that the first key is the last.
- Otherwise a list of the members at every level, in which the last member of a key counts.
- A second read from the object with each number as a marked string, if the value may be a number that ClickHouse has
  changed and the condition depends on it.
"""

import json
import secrets
from collections.abc import Callable, Sequence

from readers.filters import MAX_INTEGER_DIGITS, Operator, Value
from runtime.clickhouse import BoundParameters

Test = Callable[[str, str, Sequence[Value]], str]
"""Function that returns a test of an expression of a ClickHouse type against values."""

_MARK = secrets.token_hex(8)
"""Prefix of every number that was put in quotes. It is random, so no stored text can imitate it."""
_MANY_DIGITS = 16
"""Minimum digits in a row of a number that ClickHouse has changed."""
_SCALAR = r'"(?:[^"\\]|\\.)*"|[-+.0-9A-Za-z]+'
"""A key or string, a number, or a literal."""
_BETWEEN = r'[^-+.0-9A-Za-z"]+'
_STRUCTURE = frozenset('",:{}[]\\')
"""Characters between the scalars of a JSON text, which a string contains only escaped."""
_ESCAPED_ASCII = ", ".join(rf"'\\u00{high}'" for high in range(8))
"""Beginnings of all escaped spellings of an ASCII character."""
_MAX_LOOKED_UP = 3
"""Maximum keys of a path for ClickHouse's own lookup. Members of longer paths are listed, for short statements."""


def is_null(column: str, path: Sequence[str], bind: BoundParameters) -> str:
    """Return a test whether a path of an object leads to nothing but null."""
    return f"NOT arrayExists(v -> v NOT IN ('', 'null'), {_values(column, path, bind)})"


def any_value(
    column: str, path: Sequence[str], operator: Operator, values: Sequence[Value], bind: BoundParameters, test: Test
) -> str:
    """Return a test whether a value at a path of an object, or an element of an array there, meets a condition."""
    found, is_marked = _values(column, path, bind), any(_can_tell(operator, value) for value in values)
    elements = _elements(found)
    if is_marked:
        name = f"found{len(bind.values)}"
        may_be_changed = f"arrayExists(v -> match(v, '[0-9]{{{_MANY_DIGITS}}}'), {found} AS {name})"
        elements = f"if({may_be_changed}, {_elements(_listed(_marked(column), path, bind))}, {_elements(name)})"
    tests = _tests(values, test, is_marked=is_marked)
    return f"arrayExists(x -> {' OR '.join(tests)}, {elements})" if tests else "0"


def _can_tell(operator: Operator, value: Value) -> bool:
    """Return whether a condition may distinguish a number that ClickHouse has changed from the original."""
    if operator in ("gt", "lt", "gte", "lte", "regex"):
        return True
    if isinstance(value, str):
        return not any(map(str.isalpha, value))
    return isinstance(value, int | float) and abs(value) >= 10 ** (_MANY_DIGITS - 1)


def _values(column: str, path: Sequence[str], bind: BoundParameters) -> str:
    """Return the JSON texts of all values at a path: Array(String), with '' for none."""
    listed = _listed(column, path, bind)
    if len(path) > _MAX_LOOKED_UP or not all(map(_is_written_one_way, path)):
        return listed
    conditions = [f"NOT multiSearchAny({column}, [{_ESCAPED_ASCII}])"]
    conditions += [f"countSubstrings({column}, {bind.bind(json.dumps(key), 'String')}) <= 1" for key in path]
    if len(path) > 1:  # ClickHouse's lookup does not descend into arrays
        conditions.append(f"position({column}, '[') = 0")
    keys = ", ".join(bind.bind(key, "String") for key in path)
    return f"if({' AND '.join(conditions)}, [JSONExtractRaw({column}, {keys})], {listed})"


def _is_written_one_way(key: str) -> bool:
    r"""Return whether JSON has no other spelling of a key than with \u00 escapes, so that its text identifies it."""
    return key.isascii() and "/" not in key and json.dumps(key) == f'"{key}"'


def _listed(text: str, path: Sequence[str], bind: BoundParameters) -> str:
    """Return the JSON texts of all values at a path, from lists of members."""
    if len(path) == 1:
        key = bind.bind(path[0], "String")
        return f"[arrayLast(m -> m.1 = {key}, JSONExtractKeysAndValuesRaw({text})).2]"
    members = f"arrayMap(v -> arrayFilter(m -> m.1 = key, JSONExtractKeysAndValuesRaw(v)), {_elements('values')})"
    last = f"arrayMap(m -> m[-1].2, arrayFilter(m -> notEmpty(m), {members}))"
    return f"arrayFold((values, key) -> {last}, {bind.bind(list(path), 'Array(String)')}, [{text}])"


def _elements(values: str) -> str:
    return f"arrayFlatten(arrayMap(v -> if(startsWith(v, '['), JSONExtractArrayRaw(v), [v]), {values}))"


def _marked(column: str) -> str:
    """Return the object with every number as a marked string."""
    scalars = f"extractAll({column}, {_literal(f'{_SCALAR}|{_BETWEEN}')})"
    return f"arrayStringConcat(arrayMap(t -> if(match(t, '^[-0-9]'), concat('\"{_MARK}', t, '\"'), t), {scalars}))"


def _tests(values: Sequence[Value], test: Test, *, is_marked: bool) -> list[str]:
    """Return tests of `x`, the text of a JSON value, against the values of its type."""
    is_number, number, is_text = "match(x, '^-?[0-9]')", "x", "startsWith(x, '\"')"
    if is_marked:
        size = len(_MARK) + 2
        is_number = f"match(x, '^(?:\"{_MARK})?-?[0-9]')"
        number = f"if(startsWith(x, '\"'), substring(x, {size}, length(x) - {size}), x)"
        is_text += f" AND NOT startsWith(x, '\"{_MARK}')"
    tests = []
    if texts := [value for value in values if isinstance(value, str)]:
        tests.append(f"({is_text} AND {test('JSONExtractString(x)', 'String', texts)})")
    if flags := [value for value in values if isinstance(value, bool)]:
        tests.append(f"(x IN ('true', 'false') AND {test('JSONExtractBool(x)', 'Bool', flags)})")
    if numbers := [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]:
        is_integer = f"match({number}, '^-?[0-9]{{1,{MAX_INTEGER_DIGITS}}}$')"
        as_integer = test(f"toInt256OrZero({number})", "Int256", numbers)
        as_double = test(f"toFloat64OrZero({number})", "Float64", numbers)
        tests.append(f"({is_number} AND if({is_integer}, {as_integer}, {as_double}))")
    return tests


def text_in(column: str, text: str, bind: BoundParameters) -> str:
    """Return a case-insensitive search for a text in keys, strings, and numbers and literals as they were written."""
    wanted = bind.bind(text, "String")
    as_written = f"positionCaseInsensitiveUTF8({column}, {wanted}) > 0"
    is_escaped = f"position({column}, '\\\\') > 0"
    in_scalar = f"positionCaseInsensitiveUTF8(if(startsWith(t, '\"'), JSONExtractString(t), t), {wanted}) > 0"
    in_scalars = f"arrayExists(t -> {in_scalar}, extractAll({column}, {_literal(_SCALAR)}))"
    # A cheap test that excludes most objects: ClickHouse prints each character of a string in one spelling only.
    printed = f"JSONExtractRaw({bind.bind(json.dumps(text), 'String')})"
    as_printed = f"substring({printed}, 2, length({printed}) - 2)"
    in_print = f"positionCaseInsensitiveUTF8(JSONExtractRaw({column}), {as_printed}) > 0"
    exact = f"({as_written} OR ({is_escaped} AND {in_print})) AND {in_scalars}"
    if text.strip() != text or not text or not _STRUCTURE.isdisjoint(text):
        return f"({exact})"
    return f"if({is_escaped}, {exact}, {as_written})"  # without escapes the text can be in a scalar only


def _literal(pattern: str) -> str:
    return "'" + pattern.replace("\\", "\\\\") + "'"
