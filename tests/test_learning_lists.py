"""Lists for learning: experiments, judgments of one query, and configured retrievers, of the namespace alone."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from tests.http_lab import PATH as EVENTS
from tests.http_lab import api_of, with_key
from tests.lab import Lab, click

SHOP = {"X-Namespace": "shop"}


@pytest.fixture
async def api(lab: Lab) -> AsyncIterator[httpx.AsyncClient]:
    """The API on this test's tables."""
    async with api_of(with_key(lab.settings)) as client:
        yield client


async def show(api: httpx.AsyncClient, experiment: str, execution: str, headers: dict[str, str] | None = None) -> None:
    """Make a draft and send the impressions of its two results."""
    body = {"experiment": experiment, "a": ["x", "y"], "b": ["y", "z"], "k": 2, "execution_id": execution}
    found = (await api.post("/v1/interleavings", json=body, headers=headers)).json()
    for each in found["results"]:
        event = {"feature_id": each["feature_id"], "position": each["position"], "interaction_type": ["impression"]}
        metadata = {"interleaving": each["token"]}
        sent = {**event, "execution_id": execution, "metadata": metadata}
        assert (await api.post(EVENTS, json=sent, headers=headers)).status_code == 200


async def experiments(api: httpx.AsyncClient, headers: dict[str, str] | None = None, **query: str) -> list[Any]:
    """Return the listed experiments."""
    answer = await api.get("/v1/interleavings", params=query, headers=headers)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["experiments"])


async def test_experiments_are_listed_with_their_drafts_the_newest_first(lab: Lab, api: httpx.AsyncClient) -> None:
    assert await experiments(api) == []
    began = datetime.now(UTC)
    for execution in ("e1", "e2"):
        await show(api, "ranker 2 β", execution)
    await lab.emit(click(metadata={"interleaving": "ti_%%%.draft.content.signature"}))
    await lab.emit(click("doc-2", metadata={"interleaving": "ti_"}), click("doc-3", metadata={"interleaving": 7}))
    await show(api, "newest", "e3")
    await show(api, "of another tenant", "e4", SHOP)
    await lab.drain()
    found = await experiments(api)
    assert [(each["experiment"], each["drafts"]) for each in found] == [("newest", 1), ("ranker 2 β", 2)]
    first, last = (datetime.fromisoformat(found[1][end]) for end in ("first", "last"))
    assert first < last
    assert [each["experiment"] for each in await experiments(api, SHOP)] == ["of another tenant"]
    assert await experiments(api, until=began.isoformat()[:19]) == []


@pytest.mark.parametrize("query", [{"since": "2026-02-02", "until": "2026-02-01"}, {"unknown": "x"}, {"since": "soon"}])
async def test_a_list_that_cannot_be_made_is_refused(shared_api: httpx.AsyncClient, query: dict[str, str]) -> None:
    answer = await shared_api.get("/v1/interleavings", params=query)
    assert answer.status_code == 422
    assert next(iter(query)) in answer.text or "until" in answer.text


async def test_judgments_of_one_query_are_those_of_all(lab: Lab, api: httpx.AsyncClient) -> None:
    events = []
    for number, (query, feature) in enumerate([("Red  shoes", "a"), ("red shoes", "b"), ("blue", "a"), ("blue", "c")]):
        own: dict[str, Any] = {"retriever_id": "dense", "query_snapshot": {"text": query}}
        events += [click(feature, f"e{number}", interaction_type=["impression"], **own)]
        events += [click(feature, f"e{number}", **own)] if number % 2 else []
    await lab.emit(*events)
    await lab.drain()

    async def judgments(**query: str) -> Any:
        return (await api.get("/v1/retrievers/dense/judgments", params=query)).json()

    everything = (await judgments())["judgments"]
    assert [(each["query"], each["document"]) for each in everything] == [
        *(("blue", "c"), ("blue", "a")),
        *(("red shoes", "b"), ("red shoes", "a")),
    ]
    assert (await judgments(query=" RED shoes"))["judgments"] == everything[2:]
    cut = await judgments(query="blue", limit="1")
    assert (cut["judgments"], cut["truncated"]) == (everything[:1], True)
    unknown = await judgments(query="green")
    assert (unknown["judgments"], unknown["notes"]) == ([], ["no item of the query 'green' is judged"])


async def test_configured_retrievers_are_listed_until_their_configuration_is_deleted(api: httpx.AsyncClient) -> None:
    async def configured(headers: dict[str, str] | None = None) -> list[tuple[str, int]]:
        found = (await api.get("/v1/learning-configs", headers=headers)).json()["configs"]
        return [(each["retriever_id"], each["version"]) for each in found]

    assert await configured() == []
    for retriever in ("hybrid", "dense"):
        changed = await api.put(f"/v1/retrievers/{retriever}/learning-config", json={"min_interactions": 10})
    await api.put("/v1/retrievers/dense/learning-config", json={"min_interactions": 11})
    assert await configured() == [("dense", 2), ("hybrid", 1)]
    listed = (await api.get("/v1/learning-configs")).json()["configs"]
    assert listed[1] == {"retriever_id": "hybrid", "version": 1, "changed_at": listed[1]["changed_at"]}
    assert changed.json()["changed_at"] >= listed[1]["changed_at"]
    await api.delete("/v1/retrievers/hybrid/learning-config")
    assert await configured() == [("dense", 2)]
    assert await configured(SHOP) == []
