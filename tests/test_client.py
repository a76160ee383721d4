"""The published third-party client against the API: the acceptance test of the contract."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import mixpeek
import pytest
from mixpeek import exceptions
from mixpeek.models.bulk_interactions_request import BulkInteractionsRequest
from mixpeek.models.list_interactions_request import ListInteractionsRequest
from mixpeek.models.search_interaction import SearchInteraction

from runtime.settings import Settings
from schemas.identity import is_interaction_id
from tests.http_lab import KEY, consuming, served, until_keys_are_known, with_key
from tests.lab import Lab


class Client:
    """The client's five calls, each in a thread: it blocks."""

    def __init__(self, host: str, key: str = KEY, namespace: str | None = "default") -> None:
        named = {"NamespaceHeader": namespace} if namespace else {}
        configuration = mixpeek.Configuration(host=host, access_token=key, api_key=named)
        self.api = mixpeek.RetrieverInteractionsApi(mixpeek.ApiClient(configuration))

    async def create(self, **fields: Any) -> Any:
        return await asyncio.to_thread(self.api.create_interaction_retrievers, interaction(**fields))

    async def create_many(self, *interactions: SearchInteraction) -> Any:
        request = BulkInteractionsRequest(interactions=list(interactions))
        return await asyncio.to_thread(self.api.create_interactions_bulk_retrievers_batch, request)

    async def get(self, interaction_id: str) -> Any:
        return await asyncio.to_thread(self.api.get_interaction_retrievers, interaction_id)

    async def delete(self, interaction_id: str) -> Any:
        return await asyncio.to_thread(self.api.delete_interaction_retrievers, interaction_id)

    async def list(self, body: dict[str, Any] | None = None, **query: Any) -> Any:
        request = ListInteractionsRequest.from_dict(body or {})
        call = self.api.list_interactions_retrievers
        return await asyncio.to_thread(call, list_interactions_request=request, **query)


def interaction(**fields: Any) -> SearchInteraction:
    plain = {"feature_id": "doc-1", "interaction_type": ["click"], "position": 0}
    found = SearchInteraction.from_dict(plain | fields)
    assert found is not None
    return found


@pytest.fixture
def api_settings(lab: Lab) -> Settings:
    """A GET waits until it is stored, however slow the machine is."""
    return with_key(lab.settings, read_wait_ms=30_000)


@pytest.fixture
async def host(api_settings: Settings) -> AsyncIterator[str]:
    """Return the API's address; two workers run."""
    async with served(api_settings) as url, consuming(api_settings, workers=2):
        async with httpx.AsyncClient(base_url=url) as client:
            await until_keys_are_known(client)
        yield url


@pytest.fixture
def client(host: str) -> Client:
    return Client(host)


async def test_an_event_is_created_read_and_deleted(client: Client) -> None:
    sent = {
        "position": 3,
        "interaction_type": ["impression", "rating"],
        "metadata": {"device": "phone", "nested": {"n": [1, 2.5, None]}},
        "query_snapshot": {"text": "schöne Schuhe"},
        "user_id": "u",
        "session_id": "s",
        "execution_id": "e",
        "retriever_id": "r",
        "document_score": 0.5,
        "result_set_size": 10,
        "feature_uri": "tally://x",
    }
    created = await client.create(**sent)
    assert is_interaction_id(created.interaction_id)
    assert created.deduplicated is False
    assert created.timestamp.endswith("Z")
    got = await client.get(created.interaction_id)
    assert got == created
    assert {name: got.to_dict()[name] for name in sent} == sent
    gone = await client.delete(created.interaction_id)
    assert gone["success"] is True
    with pytest.raises(exceptions.NotFoundException):
        await client.get(created.interaction_id)
    assert (await client.delete(created.interaction_id))["success"] is True, "again"


async def test_a_repeated_event_is_deduplicated(client: Client) -> None:
    first = await client.create(execution_id="e", position=1)
    again = await client.create(execution_id="e", position=2)
    assert again.deduplicated is True
    assert again.interaction_id is None
    other = await client.create(execution_id="e", feature_id="doc-2")
    assert other.deduplicated is False
    assert first.interaction_id != other.interaction_id


async def test_items_of_a_batch_are_validated_separately(client: Client) -> None:
    bad = interaction()
    bad.result_set_size = 0
    answer = await client.create_many(interaction(feature_id="a"), bad, interaction(feature_id="b"))
    assert (answer.created, answer.failed) == (2, 1)
    assert [each.status for each in answer.results] == ["created", "failed", "created"]
    assert [each.index for each in answer.results] == [0, 1, 2]
    assert answer.results[1].interaction_id == ""
    assert answer.errors[0].startswith("1: ")
    for each, feature in ((answer.results[0], "a"), (answer.results[2], "b")):
        assert (await client.get(each.interaction_id)).feature_id == feature


async def test_errors_are_the_clients_own_exceptions(client: Client, host: str) -> None:
    with pytest.raises(exceptions.UnprocessableEntityException) as raised:
        await client.create(position=2**31)
    (error,) = (raised.value.data.error.details if raised.value.data else {})["validation_errors"]
    assert error["location"] == ["body", "position"]
    with pytest.raises(exceptions.NotFoundException):
        await client.get("no-id")
    with pytest.raises(exceptions.UnauthorizedException):
        await Client(host, key="wrong").create()
    with pytest.raises(exceptions.ForbiddenException):
        await Client(host, namespace="another").create()
    with pytest.raises(exceptions.UnprocessableEntityException):
        await client.list({"filters": {"no_such_field": 1}})


async def test_the_first_namespace_is_the_default_one(client: Client, host: str) -> None:
    created = await Client(host, namespace=None).create(feature_id="there")
    assert (await client.get(created.interaction_id)).feature_id == "there"
    with pytest.raises(exceptions.NotFoundException):
        await asyncio.wait_for(Client(host, namespace="shop").get(created.interaction_id), 60)


async def test_pages_by_cursor_are_complete_during_writes(client: Client) -> None:
    """2,500 records by cursor: none missing, none repeated, in order, during concurrent writes."""
    wanted: list[str] = []
    for start in range(0, 2_500, 500):
        batch = [interaction(feature_id=f"doc-{number}", user_id="walker") for number in range(start, start + 500)]
        wanted += [each.interaction_id for each in (await client.create_many(*batch)).results]
    for each in wanted[-1], wanted[0], wanted[1_250]:
        await client.get(each)
    stored = 0
    while stored < len(wanted):
        stored = (await client.list({"user_id": "walker"}, limit=1, include_total=True)).pagination.total
    writing = asyncio.Event()

    async def write() -> int:
        count = 0
        while not writing.is_set():
            await client.create_many(*(interaction(feature_id=f"new-{n}", user_id="walker") for n in range(20)))
            count += 20
        return count

    writer = asyncio.create_task(write())
    found, cursor = [], None
    while True:
        page = await client.list({"user_id": "walker"}, limit=100, cursor=cursor)
        assert page.items == page.results
        found += [each.interaction_id for each in page.results]
        cursor = page.pagination.next_cursor
        if cursor is None:
            break
    writing.set()
    assert await writer > 0
    assert len(found) == len(set(found)), "none twice"
    assert [each for each in found if each in set(wanted)] == sorted(wanted, reverse=True), "none missing, newest first"


FILTERS: dict[str, tuple[str, Any, set[str]]] = {
    "eq": ("user_id", "ada", {"a"}),
    "ne": ("user_id", "ada", {"b", "c"}),
    "gt": ("position", 1, {"c"}),
    "lt": ("position", 1, {"a"}),
    "gte": ("position", 1, {"b", "c"}),
    "lte": ("position", 1, {"a", "b"}),
    "in": ("feature_id", ["a", "c"], {"a", "c"}),
    "nin": ("feature_id", ["a", "c"], {"b"}),
    "contains": ("metadata.title", "SHOES", {"a", "b"}),
    "starts_with": ("metadata.title", "red", {"a"}),
    "ends_with": ("metadata.title", "shoes", {"a", "b"}),
    "regex": ("metadata.title", "^(red|blue)", {"a", "b"}),
    "exists": ("user_id", True, {"a", "b"}),
    "is_null": ("user_id", True, {"c"}),
    "text": ("metadata.title", "hoe", {"a", "b"}),
    "phrase": ("metadata.title", "running shoes", {"b"}),
    "words": ("metadata.title", "shoes red", {"a"}),
}


async def test_each_filter_operator_selects_its_records(client: Client) -> None:
    """Each operator works as the client sends it: alone, in short form, in a group, and negated."""
    titles = {"a": "red walking shoes", "b": "blue running Shoes", "c": "a hat"}
    answer = await client.create_many(
        *(
            interaction(feature_id=name, position=position, user_id=user, metadata={"title": titles[name]})
            for position, (name, user) in enumerate({"a": "ada", "b": "bob", "c": None}.items())
        )
    )
    for each in answer.results:
        await client.get(each.interaction_id)

    async def found(filters: dict[str, Any]) -> set[str]:
        return {each.feature_id for each in (await client.list({"filters": filters})).results}

    for operator, (field, value, expected) in FILTERS.items():
        condition = {"field": field, "operator": operator, "value": value}
        assert await found({"AND": [condition]}) == expected, condition
        assert await found({field: {operator: value}}) == expected, condition
        assert await found({"NOT": [condition]}) == set(titles) - expected, condition
        assert await found({"OR": [condition, {"field": "feature_id", "operator": "eq", "value": "c"}]}) == expected | {
            "c"
        }
    assert (
        await found(
            {"AND": [{"field": "metadata.title", "operator": "contains", "value": "SHOES"}], "case_sensitive": True}
        )
        == set()
    )
