"""Lists: filters agree with a reference, orders hold across pages, and every query is bounded."""

import base64
import random
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from deploy.embedded.stack import Stack
from readers.filter_fields import FILTER_FIELDS, FilterError
from readers.filters import OPERATORS, TEXT_OPERATORS, read_filters
from runtime.deletions import Deletion, Deletions
from schemas.interaction import Interaction
from tests.filter_reference import holds
from tests.http_lab import PATH, api_of, assert_error, with_key
from tests.lab import Lab, lab_of, settings_of_its_own

LIST = f"{PATH}/list"
WORDS = ("red Shoes", "blue shoes", "Ünder_score", "shoes", "", "red-shoes now", 'with "quotes" \\ and %', "rouge")
TIMES = ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00.001Z", "2025-06-01T12:00:00Z")
RECORDS = 120
KEYS = ("device", "tags", "n", "flag", "deep.er", "none", "missing")


def records(seed: int, count: int) -> list[Interaction]:
    """Interactions that differ in everything a filter can ask for, nulls and missing keys among them."""
    chance = random.Random(seed)

    def maybe(*values: Any) -> Any:
        return chance.choice((None, *values))

    def metadata() -> dict[str, Any] | None:
        every: dict[str, Any] = {
            "device": chance.choice(WORDS),
            "tags": chance.choice(([], ["red", "Shoes"], [1, "red", None, True])),
            "n": chance.choice((0, 1, 2.5, -3, "1")),
            "flag": chance.choice((True, False)),
            "deep": {"er": chance.choice((*WORDS, 1))},
            "none": None,
        }
        kept = chance.sample(sorted(every), chance.randrange(len(every) + 1))
        return maybe({key: every[key] for key in kept})  # type: ignore[no-any-return]

    return [
        Interaction(
            feature_id=chance.choice(WORDS),
            interaction_type=chance.sample(["click", "view", "purchase"], chance.choice((1, 2))),
            position=chance.randrange(5),
            user_id=maybe(*WORDS),
            session_id=maybe("s1", "S1"),
            retriever_id=maybe("r1", "r2"),
            metadata=metadata(),
            query_snapshot=maybe({"text": chance.choice(WORDS)}),
            document_score=maybe(0.0, 0.25, -1.5, 1e300),
            result_set_size=maybe(1, 2, 3),
            feature_uri=maybe("tally://a", "tally://b"),
            occurred_at=maybe(*TIMES),
        )
        for _ in range(count)
    ]


def conditions() -> st.SearchStrategy[dict[str, Any]]:
    """Return a condition on any field, with values that some records have."""
    texts = st.sampled_from((*WORDS, "red", "SHOES", "s1", "r1", "tally://a", "click", "shoes now", "o"))
    numbers = st.sampled_from((0, 1, 2, 2.5, -3, 0.25, 1e300))
    values = {"text": texts, "texts": texts, "number": numbers, "time": st.sampled_from((*TIMES, "2026-01-01"))}
    anything = st.one_of(texts, numbers, st.booleans())

    @st.composite
    def condition(draw: st.DrawFn) -> dict[str, Any]:
        name = draw(st.sampled_from((*FILTER_FIELDS, *(f"metadata.{key}" for key in KEYS), "query_snapshot.text")))
        kind = FILTER_FIELDS.get(name, "json")
        operator = draw(st.sampled_from(OPERATORS))
        if operator in TEXT_OPERATORS:
            if kind not in ("text", "texts", "json"):
                operator = "eq"
            else:
                value: Any = draw(st.sampled_from(("red", "Shoes", "shoes now", "o", "under_score", "1")))
        if operator in ("exists", "is_null"):
            value = draw(st.booleans())
        elif operator in ("in", "nin"):
            value = draw(st.lists(values.get(kind, anything), max_size=3))
        elif operator not in TEXT_OPERATORS:
            value = draw(values.get(kind, anything))
        return {"field": name, "operator": operator, "value": value}

    return condition()


def groups() -> st.SearchStrategy[dict[str, Any]]:
    """Conditions, combined."""

    def grown(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
        members = st.lists(inner, min_size=1, max_size=3)
        flags = {"case_sensitive": st.booleans()}
        return st.fixed_dictionaries({}, optional={"AND": members, "OR": members, "NOT": members} | flags)

    return st.recursive(conditions(), grown, max_leaves=5).map(
        lambda found: found if "field" not in found else {"AND": [found]}
    )


@pytest.fixture
async def api(lab: Lab) -> AsyncIterator[httpx.AsyncClient]:
    """The API on this test's tables."""
    async with api_of(with_key(lab.settings), "reader") as client:
        yield client


@pytest.fixture(scope="module")
async def reading(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[httpx.AsyncClient]:
    """The API on records that differ in everything, for tests that only read them."""
    filled = settings_of_its_own(stack, tmp_path_factory.mktemp("filled"))
    async with lab_of(filled) as lab:
        await lab.emit_all(records(1, RECORDS))
        await lab.drain()
    async with api_of(with_key(filled), "reader") as client:
        yield client


async def everything(api: httpx.AsyncClient, body: dict[str, Any] | None = None, **query: Any) -> list[dict[str, Any]]:
    """All pages of a list, one after the other."""
    found: list[dict[str, Any]] = []
    while True:
        answer = await api.post(LIST, json=body or {}, params=query)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        found += page["results"]
        assert len(page["results"]) <= page["pagination"]["page_size"]
        if (cursor := page["pagination"]["next_cursor"]) is None:
            return found
        query["cursor"] = cursor


@pytest.fixture(scope="module")
async def stored(reading: httpx.AsyncClient) -> list[dict[str, Any]]:
    """All records of the filled tables."""
    found = await everything(reading)
    assert len(found) == RECORDS
    return found


@hypothesis_settings(max_examples=75)
@given(groups())
async def test_filters_in_sql_agree_with_the_reference(
    reading: httpx.AsyncClient, stored: list[dict[str, Any]], body: dict[str, Any]
) -> None:
    """Law: a list returns the records that the reference finds among all records."""
    expected = [each["interaction_id"] for each in stored if holds(read_filters(body), each)]
    found = [each["interaction_id"] for each in await everything(reading, {"filters": body})]
    assert found == expected


@pytest.mark.parametrize("operator", OPERATORS)
async def test_each_operator_filters_each_kind_of_field(
    reading: httpx.AsyncClient, stored: list[dict[str, Any]], operator: str
) -> None:
    values = {"text": "red Shoes", "texts": "click", "number": 1, "time": TIMES[0]}
    for name, kind in {
        **FILTER_FIELDS,
        "metadata.device": "text",
        "metadata.n": "number",
        "metadata.tags": "text",
    }.items():
        if operator in TEXT_OPERATORS and kind not in ("text", "texts"):
            continue
        value: Any = values[kind]
        value = [value] if operator in ("in", "nin") else True if operator in ("exists", "is_null") else value
        for sensitive in (True, False):
            body = {"AND": [{"field": name, "operator": operator, "value": value}], "case_sensitive": sensitive}
            found = {each["interaction_id"] for each in await everything(reading, {"filters": body})}
            assert found == {each["interaction_id"] for each in stored if holds(read_filters(body), each)}, (name, body)


async def test_shorthands_simple_fields_and_search_filter_the_list(lab: Lab, api: httpx.AsyncClient) -> None:
    receipts = await lab.emit(
        Interaction(
            feature_id="a", interaction_type=["click"], position=1, user_id="u1", metadata={"q": "Schöne Schuhe"}
        ),
        Interaction(feature_id="b", interaction_type=["view"], position=7, user_id="u2", metadata={"q": "other"}),
        Interaction(feature_id="c", interaction_type=["view", "click"], position=3, user_id="u1"),
    )
    # The spelling of a client that writes ASCII only.
    escaped = b'{"feature_id":"d","interaction_type":["view"],"position":9,"metadata":{"q":"sch\\u00f6n"}}'
    await lab.put(escaped, key=b"default:x")
    await lab.drain()
    a, b, c = (receipt.interaction_id for receipt in receipts)
    features = {a: "a", b: "b", c: "c"}

    async def found(**body: Any) -> list[str]:
        return sorted(features.get(each["interaction_id"], "d") for each in await everything(api, body))

    assert await found(user_id="u1") == ["a", "c"]
    assert await found(interaction_type="click") == ["a", "c"]
    assert await found(filters={"position": {"lte": 7, "gt": 1}}) == ["b", "c"]
    assert await found(filters={"user_id": "u1", "OR": [{"position": 1}, {"position": 7}]}) == ["a"]
    assert await found(filters={"interaction_type": ["view"]}, user_id="u1") == ["c"]
    assert await found(filters={"metadata.q": None, "feature_id": "c"}) == ["c"]
    assert await found(filters={"document_id": "b"}) == ["b"]
    assert await found(filters={"created_at": {"gte": "2025-01-01"}}) == ["a", "b", "c", "d"]
    assert await found(search="schuhe") == ["a"]
    assert await found(search="schön") == ["a", "d"]
    assert await found(search="nothing") == []


@pytest.mark.parametrize("field", [name for name, kind in FILTER_FIELDS.items() if kind != "texts"])
async def test_sort_orders_hold_across_pages(reading: httpx.AsyncClient, field: str) -> None:
    for direction in ("asc", "desc"):
        found = await everything(reading, {"sort": {"field": field, "direction": direction}}, limit=11)
        assert len(found) == len({each["interaction_id"] for each in found}) == RECORDS
        known = [(each[field], each["interaction_id"]) for each in found if each[field] is not None]
        assert known == sorted(known, reverse=direction == "desc")
        assert all(each[field] is None for each in found[len(known) :]), "null comes last"


async def test_pages_are_selected_by_number_and_offset_with_totals(lab: Lab, api: httpx.AsyncClient) -> None:
    await lab.emit_all(records(4, 25))
    await lab.drain()
    ids = [each["interaction_id"] for each in await everything(api)]
    for query, first, size in (
        ({"page": 2, "page_size": 10}, 10, 10),
        ({"offset": 20, "limit": 10}, 20, 5),
        ({"page": 9, "limit": 10}, 90, 0),
        ({"offset": 0}, 0, 25),
    ):
        page = (await api.post(LIST, params=query | {"include_total": True})).json()
        assert [each["interaction_id"] for each in page["results"]] == ids[first : first + size], query
        assert page["pagination"]["total"] == 25
        assert page["pagination"]["total_pages"] == -(-25 // page["pagination"]["page_size"])
    page = (await api.post(LIST, params={"page": 2, "page_size": 10})).json()
    assert (page["pagination"]["page"], page["pagination"]["total"]) == (2, None)
    after = (await api.post(f"{LIST}{page['pagination']['next_page']}")).json()
    assert [each["interaction_id"] for each in after["results"]] == ids[20:]
    before = (await api.post(f"{LIST}{page['pagination']['previous_page']}")).json()
    assert [each["interaction_id"] for each in before["results"]] == ids[:10]


async def test_pages_omit_deleted_events(lab: Lab, api: httpx.AsyncClient) -> None:
    """Also if one whole query finds only deleted events."""
    receipts = await lab.emit_all(records(5, 30))
    await lab.drain()
    gone = sorted(receipt.interaction_id for receipt in receipts)[3:27]
    await Deletions(lab.database).erase([Deletion(each, "default") for each in gone])
    left = sorted({receipt.interaction_id for receipt in receipts} - set(gone), reverse=True)
    assert [each["interaction_id"] for each in await everything(api, limit=2)] == left
    page = (await api.post(LIST, params={"offset": 2, "limit": 3, "include_total": True})).json()
    assert [each["interaction_id"] for each in page["results"]] == left[2:5]
    assert page["pagination"]["total"] == 6


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"filters": {"nothing": 1}}, ["body", "filters", "nothing"]),
        ({"filters": {"position": "x"}}, ["body", "filters", "position"]),
        ({"filters": {"position": {"near": 1}}}, ["body", "filters", "position"]),
        ({"filters": {"position": {}}}, ["body", "filters", "position"]),
        ({"filters": {"position": {"eq": True}}}, ["body", "filters", "position"]),
        ({"filters": {"position": {"contains": 1}}}, ["body", "filters", "position"]),
        ({"filters": {"user_id": {"regex": "("}}}, ["body", "filters"]),
        ({"filters": {"user_id": {"words": "-"}}}, ["body", "filters", "user_id"]),
        ({"filters": {"user_id": {"regex": "x" * 2_000}}}, ["body", "filters", "user_id"]),
        ({"filters": {"user_id": {"in": "x"}}}, ["body", "filters", "user_id"]),
        ({"filters": {"user_id": {"in": ["x"] * 1_001}}}, ["body", "filters", "user_id"]),
        ({"filters": {"user_id": {"in": ["x" * 500] * 200}}}, ["body", "filters", "user_id"]),
        ({"filters": {"user_id.x": "x"}}, ["body", "filters", "user_id.x"]),
        ({"filters": {"metadata.x": {"words": "a " * 4_000}}}, ["body", "filters", "metadata.x"]),
        ({"filters": {"metadata." + "x" * 600: 1}}, ["body", "filters", "metadata." + "x" * 600]),
        ({"filters": {"occurred_at": {"gt": "yesterday"}}}, ["body", "filters", "occurred_at"]),
        ({"filters": {"metadata": "x"}}, ["body", "filters", "metadata"]),
        ({"filters": {"metadata." + ".".join("a" * 17): "x"}}, ["body", "filters", "metadata." + ".".join("a" * 17)]),
        ({"filters": {"AND": {}}}, ["body", "filters", "AND"]),
        ({"filters": {"OR": []}}, ["body", "filters", "OR"]),
        ({"filters": {"AND": [5]}}, ["body", "filters", "AND", 0]),
        ({"filters": {"AND": [{"field": "position", "value": 1, "x": 1}]}}, ["body", "filters", "AND", 0, "x"]),
        ({"filters": {"case_sensitive": 1}}, ["body", "filters", "case_sensitive"]),
        ({"filters": {"AND": [{"position": 1}] * 101}}, ["body", "filters", "AND", 100, "position"]),
        ({"filters": []}, ["body", "filters"]),
        ({"interaction_type": "clik"}, ["body", "interaction_type"]),
        ({"sort": {"field": "metadata.x"}}, ["body", "sort", "field"]),
        ({"sort": {"field": "position", "direction": "up"}}, ["body", "sort", "direction"]),
        ({"foo": 1}, ["body", "foo"]),
        ({"user_id": 5}, ["body", "user_id"]),
    ],
)
async def test_an_invalid_part_of_a_query_is_named(
    reading: httpx.AsyncClient, body: dict[str, Any], where: list[Any]
) -> None:
    error = assert_error(await reading.post(LIST, json=body), 422, "ValidationError")
    assert error["details"]["validation_errors"][0]["location"] == where


async def test_half_a_surrogate_pair_is_not_a_500(reading: httpx.AsyncClient) -> None:
    for name in ('"\\ud800"', '"metadata.\\ud800"', '"user_id"'):
        answer = await reading.post(LIST, content='{"filters":{%s:"\\ud800"}}' % name)  # noqa: UP031
        assert_error(answer, 422, "ValidationError")
    forged = base64.urlsafe_b64encode(b'["user_id",true,"\\ud800","int_%b"]' % (b"0" * 32)).decode().rstrip("=")
    answer = await reading.post(LIST, json={"sort": {"field": "user_id"}}, params={"cursor": forged})
    assert_error(answer, 422, "ValidationError")


async def test_filters_accept_times_in_the_first_hours_of_1970(reading: httpx.AsyncClient) -> None:
    for operator in ("gt", "eq", "in"):
        value: Any = "1970-01-01T00:20:34.567Z"
        body = {"filters": {"timestamp": {operator: [value] if operator == "in" else value}}}
        assert (await reading.post(LIST, json=body)).status_code == 200
    assert (await reading.get("/v1/outcomes", params={"since": "1970-01-01T00:20:34.567Z"})).status_code == 200


async def test_the_depth_of_nested_groups_is_bounded(reading: httpx.AsyncClient) -> None:
    for depth, status in ((7, 200), (8, 422), (1_000, 422), (20_000, 422), (100_000, 413)):
        body = b'{"filters":' + b'{"AND":[' * depth + b'{"position":1}' + b"]}" * depth + b"}"
        assert (await reading.post(LIST, content=body)).status_code == status, depth


@pytest.mark.parametrize(
    "query",
    [
        {"limit": 0},
        {"limit": 1_001},
        {"page": 0},
        {"offset": 10_001},
        {"page": 102, "limit": 100},
        {"cursor": "x"},
        {"cursor": "WzFd"},
        {"after": "bnVsbA"},
        {"limit": "x"},
    ],
)
async def test_an_invalid_page_is_refused(reading: httpx.AsyncClient, query: dict[str, Any]) -> None:
    assert_error(await reading.post(LIST, params=query), 422, "ValidationError")


async def test_a_cursor_belongs_to_its_order(lab: Lab, api: httpx.AsyncClient) -> None:
    await lab.emit_all(records(6, 5))
    await lab.drain()
    cursor = (await api.post(LIST, params={"limit": 2})).json()["pagination"]["next_cursor"]
    answer = await api.post(LIST, json={"sort": {"field": "position"}}, params={"cursor": cursor})
    assert_error(answer, 422, "ValidationError")
    assert_error(await api.post(LIST, params={"cursor": cursor, "offset": 2}), 422, "ValidationError")


async def test_a_list_that_takes_too_long_is_cancelled(lab: Lab) -> None:
    await lab.database.command(
        "INSERT INTO interactions (namespace, interaction_id, timestamp) "
        "SELECT 'default', concat('int_', toString(number)), now() FROM numbers(2000000)"
    )
    async with api_of(with_key(lab.settings, list_timeout_ms=100), "reader") as api:
        body = {"filters": {"metadata.a": {"regex": "(a+)+b"}}, "sort": {"field": "position"}}
        error = assert_error(
            await api.post(LIST, json=body, params={"include_total": True}), 503, "ServiceUnavailableError"
        )
        assert "TALLY_LIST_TIMEOUT_MS" in error["message"]


NAMES = ("AND", "OR", "NOT", "field", "operator", "value", "position", "metadata.x", "user_id")
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(NAMES) | st.text(), inner),
)


@given(ANY_JSON)
def test_any_json_is_a_filter_or_a_clear_error(body: Any) -> None:
    try:
        read_filters(body)
    except FilterError as error:
        assert error.where[0] == "filters"
        assert str(error)
