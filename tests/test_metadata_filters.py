"""Filters on metadata: SQL and the reference agree for any stored JSON."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from deploy.embedded.stack import Stack
from readers.filter_fields import FilterError
from readers.filter_sql import where
from readers.filters import OPERATORS, TEXT_OPERATORS, Filter, read_filters
from runtime.clickhouse import BoundParameters, ClickHouse, connect
from tests.filter_reference import holds
from tests.http_lab import PATH, api_of, assert_error, with_key
from tests.lab import Lab

KEYS = ("a", "b", "a.b", "", "0", "é", "a/b", "\\", '"', "\n", "\0", "key")
INTEGERS = (0, 1, -1, 2**53, 2**53 + 1, 10**16 + 1, 2**63, -(2**63) - 1, 2**64, 10**19, 10**30 + 1, 10**76 - 1)
NUMBERS = (
    *map(str, INTEGERS),
    *("-0", "1.0", "1e0", "10e-1", "0.1", "1E+16", "1e20", "1e22", "9007199254740992.0", "9007199254740993.5"),
    *(
        "12345678901234567000",
        "3.6028797018963968e16",
        "36028797018963970",
        "1.2345678901234567e19",
        "5e-324",
        "1.7976931348623157e308",
        "9" * 77,
        "-" + "9" * 320,
    ),
)
TEXTS = (
    "a",
    "a/b",
    "é",
    "É",
    "red Shoes",
    "1",
    "true",
    "null",
    '"',
    "\\",
    "\t",
    "\x01",
    "\0",
    "\u2028",
    "🙂",
    "9007199254740993",
    "",
)
DOCUMENTS = 60
"""Documents per random filter."""


def spelled(chance: Random, text: str) -> str:
    """A text as JSON may write it: each character by itself, or escaped."""

    def character(plain: str) -> str:
        units = plain.encode("utf-16-be")
        escaped = "".join(f"\\u{int.from_bytes(units[at : at + 2]):04x}" for at in range(0, len(units), 2))
        shortest = json.dumps(plain, ensure_ascii=False)[1:-1]
        slash = "\\/" if plain == "/" else shortest
        return chance.choice((shortest, shortest, shortest, slash, escaped, escaped.upper().replace("\\U", "\\u")))

    as_it_is = json.dumps(text, ensure_ascii=False)
    return chance.choice((as_it_is, f'"{"".join(map(character, text))}"'))


def value_of(chance: Random, keys: Sequence[str], scalars: Sequence[str], depth: int) -> str:
    """The JSON text of a value. Objects may have a key twice; blanks may be anywhere."""
    kind = chance.random() if depth else 0
    blank = chance.choice(("", "", "", " ", "\n\t"))
    if kind < 0.6:
        return chance.choice(scalars)
    members = [value_of(chance, keys, scalars, depth - 1) for _ in range(chance.choice((0, 1, 1, 2, 2, 3)))]
    if kind < 0.8:
        return f"[{blank}{f',{blank}'.join(members)}]"
    return object_of(chance, keys, members, blank)


def object_of(chance: Random, keys: Sequence[str], values: Sequence[str], blank: str) -> str:
    """The JSON text of an object with these values."""
    members = (f"{spelled(chance, chance.choice(keys))}{blank}:{blank}{value}{blank}" for value in values)
    return "{" + ",".join(members) + "}"


def random_filter(chance: Random) -> tuple[list[str], dict[str, Any]]:
    """Documents, and a condition on them. Both are made from few keys and scalars, so that they often meet."""
    keys = chance.sample(KEYS, 2)
    numbers, texts = chance.sample(NUMBERS, chance.choice((1, 2, 3))), chance.sample(TEXTS, chance.choice((1, 2)))
    scalars = [*numbers, *(spelled(chance, text) for text in texts), "true", "null"]
    documents = [
        object_of(chance, keys, [value_of(chance, keys, scalars, 2) for _ in range(chance.choice((0, 1, 2, 2, 3)))], "")
        for _ in range(DOCUMENTS - 1)
    ]
    wanted = [*(json.loads(each) for each in numbers if len(each) < 77), *texts, True, 2.0**53, 3]
    operator = chance.choice([each for each in OPERATORS if each != "regex"])
    value: Any = chance.choice(wanted)
    if operator in ("exists", "is_null"):
        value = chance.choice((True, False))
    elif operator in ("in", "nin"):
        value = chance.sample(wanted, chance.choice((0, 1, 2, 3)))
    elif operator in ("words", "phrase"):
        value = chance.choice(("red", "Shoes", "red shoes", "1", "é"))
    elif operator in TEXT_OPERATORS:
        value = chance.choice([*texts, *(each[:300] for each in numbers), "ED S", "e", "0"])
    path = [
        key.replace("\\", "\\\\").replace(".", "\\.") for key in chance.choices(keys, k=chance.choice((1, 1, 2, 3)))
    ]
    condition = {"field": ".".join(["metadata", *path]), "operator": operator, "value": value}
    return [*documents, ""], condition | {"case_sensitive": chance.choice((True, False))}


class FilterCase:
    """Filters over given texts of metadata, in ClickHouse."""

    def __init__(self, runner: asyncio.Runner, database: ClickHouse) -> None:
        self._runner = runner
        self._database = database

    def __call__(self, documents: Sequence[str], filter_: Filter) -> list[int]:
        """Indexes of the documents that match the filter."""
        bind = BoundParameters()
        numbered = f"arrayZip(range({len(documents)}), {bind.bind(list(documents), 'Array(String)')})"
        sql = (
            f"SELECT at FROM (SELECT row.1 AS at, row.2 AS metadata FROM (SELECT arrayJoin({numbered}) AS row)) "
            f"WHERE {where(filter_, bind)} ORDER BY at"
        )
        return [at for (at,) in self._runner.run(self._database.rows(sql, bind.values))]


@pytest.fixture(scope="module")
def asked(stack: Stack) -> Iterator[FilterCase]:
    with asyncio.Runner() as runner:
        connected = connect(stack.settings(), database="default")
        yield FilterCase(runner, runner.run(connected.__aenter__()))
        runner.run(connected.__aexit__(None, None, None))


def matching(documents: Sequence[str], filter_: Filter) -> list[int]:
    """The same, by the reference."""
    return [at for at, text in enumerate(documents) if holds(filter_, {"metadata": text or None})]


def agree(asked: FilterCase, documents: Sequence[str], condition: dict[str, Any]) -> None:
    """Fail with the documents that only one of the two finds."""
    filter_ = read_filters({"AND": [condition]})
    found, expected = asked(documents, filter_), matching(documents, filter_)
    assert not [(documents[at], "found" if at in found else "missed") for at in set(found) ^ set(expected)], condition


@hypothesis_settings(max_examples=200)
@given(st.randoms(use_true_random=True))
def test_sql_and_reference_agree_on_values_at_a_path(asked: FilterCase, chance: Random) -> None:
    """Law: for any documents and filter, ClickHouse finds the documents that the reference finds."""
    agree(asked, *random_filter(chance))


@pytest.mark.parametrize("value", [2.0**256, 1.7976931348623157e308, -(2.0**255), 2.0**255, 1e76])
@pytest.mark.parametrize("operator", ["in", "nin", "eq"])
def test_a_number_beyond_the_integers_of_clickhouse_equals_no_other(
    asked: FilterCase, operator: str, value: float
) -> None:
    documents = [f'{{"n":[{each}]}}' for each in ("0", "1", "-1", repr(value), str(2**64))]
    wanted = value if operator == "eq" else [value]
    agree(asked, documents, {"field": "metadata.n", "operator": operator, "value": wanted})


@hypothesis_settings(max_examples=100)
@given(st.randoms(use_true_random=True))
def test_sql_and_reference_agree_on_text_anywhere(asked: FilterCase, chance: Random) -> None:
    """The law for `text` on the whole object, as used by `search`."""
    documents, condition = random_filter(chance)
    wanted = chance.choice((*TEXTS, *KEYS, *NUMBERS, "e", ":", ": ", " 1", ",", '":', "ED S", "}", "a"))
    agree(asked, documents, condition | {"field": "metadata", "operator": "text", "value": wanted})


RULES: list[tuple[str, dict[str, Any], bool]] = [
    # An integer is compared digit for digit, also with a number that has a fraction or an exponent.
    ('{"n": 9007199254740993}', {"metadata.n": 9007199254740993}, True),
    ('{"n": 9007199254740993}', {"metadata.n": 9007199254740992}, False),
    ('{"n": 9007199254740993}', {"metadata.n": {"gt": 9007199254740992.0}}, True),
    ('{"n": 9007199254740993}', {"metadata.n": {"in": [9007199254740992, 9007199254740992.0]}}, False),
    ('{"n": [1, 18446744073709551617]}', {"metadata.n": 18446744073709551617}, True),
    ('{"n": 18446744073709551617}', {"metadata.n": {"lte": 18446744073709551616}}, False),
    ('{"n": 1e20}', {"metadata.n": 10**20}, True),
    ('{"n": 3.6028797018963968e16}', {"metadata.n": 36028797018963970}, False),
    ('{"n": 1.0}', {"metadata.n": 1}, True),
    ('{"n": -0}', {"metadata.n": 0}, True),
    # A value is compared with values of its own type only.
    ('{"n": 18446744073709551617}', {"metadata.n": "18446744073709551617"}, False),
    ('{"n": "1"}', {"metadata.n": 1}, False),
    ('{"n": true}', {"metadata.n": 1}, False),
    ('{"n": true}', {"metadata.n": {"gt": False}}, True),
    ('{"n": {"a": 1}}', {"metadata.n": {"exists": True}}, True),
    ('{"n": {"a": 1}}', {"metadata.n": {"ne": 1}}, True),
    # The last of two equal keys counts.
    ('{"k": 1, "k": 2}', {"metadata.k": 2}, True),
    ('{"k": 1, "k": 2}', {"metadata.k": 1}, False),
    ('{"k": 1, "\\u006b": null}', {"metadata.k": {"exists": True}}, False),
    ('{"a": {"b": 1}, "a": {"c": 1}}', {"metadata.a.b": {"exists": True}}, False),
    # A dot separates keys; one that belongs to a key is written with a backslash.
    ('{"a.b": 1}', {"metadata.a.b": 1}, False),
    ('{"a.b": 1}', {"metadata.a\\.b": 1}, True),
    ('{"a": {"b": 1}}', {"metadata.a.b": 1}, True),
    ('{"a\\\\": {"b": 1}}', {"metadata.a\\\\.b": 1}, True),
    ('{"": {"b": 1}}', {"metadata..b": 1}, True),
    # An array matches by each of its elements, anywhere on the path; its indexes are not keys.
    ('{"items": [{"id": 1}, {"id": 2}]}', {"metadata.items.id": 2}, True),
    ('{"items": [{"id": [1, 2]}]}', {"metadata.items.id": 2}, True),
    ('{"items": [{"id": 1}]}', {"metadata.items.0.id": 1}, False),
    ('{"items": {"0": {"id": 1}}}', {"metadata.items.0.id": 1}, True),
    ('{"items": [[{"id": 1}]]}', {"metadata.items.id": 1}, False),
    ('{"items": [[1]]}', {"metadata.items": 1}, False),
    ('{"items": [{"id": 1}, {"id": 2}]}', {"metadata.items.id": {"ne": 2}}, False),
    # Null is as good as missing; an empty array is neither.
    ('{"a": null}', {"metadata.a": None}, True),
    ('{"b": 1}', {"metadata.a": None}, True),
    ('{"a": null}', {"metadata.a": {"ne": 1}}, True),
    ('{"a": []}', {"metadata.a": {"exists": True}}, True),
    ('{"a": [{"b": null}]}', {"metadata.a.b": {"exists": True}}, False),
    # Text is searched in decoded strings, within one key or value.
    (r'{"url": "a\/b"}', {"metadata": {"text": "a/b"}}, True),
    (r'{"q": "caf\u00e9"}', {"metadata": {"text": "Café"}}, True),
    (r'{"q": "caf\u00e9"}', {"metadata.q": {"contains": "CAFÉ"}}, True),
    (r'{"q": "one\ntwo\u0000"}', {"metadata": {"text": "e\nt"}}, True),
    (r'{"q": "one\ntwo\u0000"}', {"metadata": {"text": "o\0"}}, True),
    (r'{"q": "one\ntwo"}', {"metadata": {"text": "ntwo"}}, False),
    (r'{"q": "\ud83d\ude42"}', {"metadata": {"text": "🙂"}}, True),
    (r'{"q": "say \"hi\" \\"}', {"metadata": {"text": '"hi" \\'}}, True),
    ('{"q": "red", "n": 1.10}', {"metadata": {"text": "1.10"}}, True),
    ('{"q": "red", "n": 1.10}', {"metadata": {"text": '","'}}, False),
    ('{"q": "red", "n": 1.10}', {"metadata": {"text": ":"}}, False),
]


async def test_rules_of_the_documentation_hold_over_the_api(lab: Lab) -> None:
    documents = list(dict.fromkeys(document for document, _, _ in RULES))
    for at, document in enumerate(documents):
        event = f'{{"feature_id":"{at}","interaction_type":["view"],"position":0,"metadata":{document}}}'
        await lab.put(event.encode(), key=b"default:x")
    await lab.drain()
    async with api_of(with_key(lab.settings), "reader") as api:
        for document, filters, holds_ in RULES:
            assert (document in documents) and holds(read_filters(filters), {"metadata": document}) == holds_, filters
            body = {"filters": filters, "feature_id": str(documents.index(document))}
            answer = await api.post(f"{PATH}/list", json=body, params={"include_total": True})
            assert answer.json()["pagination"]["total"] == holds_, (document, filters, answer.text)
        for wanted, features in (("a/b", {r'{"url": "a\/b"}'}), ("é", {r'{"q": "caf\u00e9"}'})):
            found = (await api.post(f"{PATH}/list", json={"search": wanted})).json()["results"]
            assert {documents[int(each["feature_id"])] for each in found} == features


@pytest.mark.parametrize(
    "name", ["metadata.a\\b", "metadata.\\", "metadata.a\\\\\\", "position\\.x", "metadata\\.a", "metadata.\ud800"]
)
def test_a_malformed_field_name_is_refused(name: str) -> None:
    with pytest.raises(FilterError) as raised:
        read_filters({name: 1})
    assert raised.value.where == ["filters", name]


@pytest.mark.parametrize("value", [10**76, -(10**76), {"eq": {"a": 1}}, {"eq": [1]}, {"gt": None}, {"contains": 1}])
def test_a_value_that_cannot_be_compared_is_refused(value: Any) -> None:
    with pytest.raises(FilterError):
        read_filters({"metadata.a": value})


def test_the_largest_allowed_filter_is_answered(asked: FilterCase) -> None:
    """Statements stay below ClickHouse's bound on their size."""
    words = " ".join(f"w{number}" for number in range(32))
    largest = [
        [{"field": "metadata.a.b.c", "operator": "in", "value": ["1", 1, True]}] * 100,
        [{"field": "metadata.a.b.c", "operator": "words", "value": words}] * 3,
    ]
    for conditions in largest:
        assert asked(['{"a":{"b":{"c":"x"}}}'], read_filters({"AND": conditions, "case_sensitive": True})) in ([], [0])
    with pytest.raises(FilterError, match="more than 100 conditions"):
        read_filters({"AND": [{"field": "user_id", "operator": "words", "value": words}] * 4})


async def test_half_a_surrogate_pair_is_refused_as_search_text(lab: Lab) -> None:
    """In `search` and in simple fields as well."""
    async with api_of(with_key(lab.settings), "reader") as api:
        for name in ("search", "user_id", "feature_id"):
            answer = await api.post(f"{PATH}/list", content='{"%s":"\\ud800"}' % name)  # noqa: UP031
            error = assert_error(answer, 422, "ValidationError")
            assert error["details"]["validation_errors"][0]["location"] == ["body", name]
