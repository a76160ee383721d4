"""Scores, gate and datasets over HTTP: the published client's calls, and errors that name the field."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from mixpeek import exceptions
from mixpeek.models.create_dataset_request import CreateDatasetRequest
from mixpeek.models.generate_from_interactions_request import GenerateFromInteractionsRequest
from mixpeek.models.score_predictions_request import ScorePredictionsRequest

from tests.evaluation_lab import EvaluationClient, days_since_loaded, loaded, namespace, traffic
from tests.http_lab import BEARER, KEY, NAMESPACES, api_of, assert_error, served, until_keys_are_known, with_key
from tests.lab import Lab

SCORE, GATE = "/v1/evaluations/score", "/v1/evaluations/gate"
DATASETS = "/v1/retrievers/evaluations/datasets"
GENERATE = "/v1/retrievers/dense/evaluations/generate-from-interactions"
QUERY = {"query_id": "q1", "query_input": {"text": "x"}, "relevant_documents": ["a", "b"], "relevance_scores": {"a": 3}}


@pytest.fixture(scope="module")
async def space(shared_lab: Lab) -> str:
    """Return a namespace with events."""
    name = namespace()
    await loaded(shared_lab, name, *traffic(30))
    return name


@pytest.fixture(scope="module")
async def api(shared_lab: Lab, space: str) -> AsyncIterator[httpx.AsyncClient]:
    """The API with small bounds."""
    settings = with_key(
        shared_lab.settings,
        api_namespaces=(space, *NAMESPACES),
        evaluation_queries=50,
        evaluation_documents=1_000,
        evaluation_bytes=100_000,
    )
    async with api_of(settings, "reader") as client:
        yield client


@pytest.fixture(scope="module")
async def host(shared_lab: Lab, space: str) -> AsyncIterator[str]:
    """Return the address of an API."""
    settings = with_key(shared_lab.settings, api_namespaces=(space, *NAMESPACES))
    async with served(settings, "reader") as url:
        async with httpx.AsyncClient(base_url=url, headers=BEARER) as client:
            await until_keys_are_known(client)
        yield url


async def test_the_published_client_scores_predictions(host: str) -> None:
    client = EvaluationClient(host)
    pair = ScorePredictionsRequest(predicted=["a", "b", "b"], ground_truth=["a"])
    found = await client.call("score_predictions_evaluations", pair)
    assert (found.metrics, found.k, found.count) == (["precision", "recall", "f1", "f2"], None, 1)
    assert found.aggregate == found.per_item[0]
    assert found.aggregate["precision"] == 0.5
    items = [{"predicted": ["a", "x"], "ground_truth": ["a", "b"]}, {"ground_truth": ["a"]}]
    request = ScorePredictionsRequest.from_dict({"items": items, "metrics": ["ndcg", "recall"], "k": 1})
    found = await client.call("score_predictions_evaluations", request)
    assert (found.metrics, found.k, found.count) == (["ndcg", "recall"], 1, 2)
    assert found.per_item == [{"ndcg": 1.0, "recall": 0.5}, {"ndcg": 0.0, "recall": 0.0}]
    assert found.aggregate == {"ndcg": 0.5, "recall": 0.25}
    with pytest.raises(exceptions.UnprocessableEntityException):
        await client.call("score_predictions_evaluations", ScorePredictionsRequest())


async def test_the_published_client_keeps_datasets(host: str, space: str) -> None:
    client = EvaluationClient(host, space)
    request = CreateDatasetRequest.from_dict(
        {"dataset_name": "shoes / שלום", "description": "d", "queries": [QUERY], "metadata": {"version": 1}}
    )
    created = await client.call("create_dataset_retrievers_evaluations", request)
    assert created.queries[0].to_dict() == QUERY
    assert (created.dataset_name, created.query_count, created.namespace_id) == ("shoes / שלום", 1, space)
    assert created.metadata == {"version": 1}
    for identifier in (created.dataset_id, "shoes / שלום"):
        assert await client.call("get_dataset_retrievers_evaluations", identifier) == created
    listed = await client.call("list_datasets_retrievers_evaluations")
    assert (listed.datasets[-1], listed.page, listed.page_size) == (created, 1, 20)
    assert (await client.call("list_datasets_retrievers_evaluations", page=9, page_size=1)).datasets == []
    with pytest.raises(exceptions.ConflictException):
        await client.call("create_dataset_retrievers_evaluations", request)
    with pytest.raises(exceptions.NotFoundException):
        await client.call("get_dataset_retrievers_evaluations", "nothing")
    with pytest.raises(exceptions.NotFoundException):
        await EvaluationClient(host).call("get_dataset_retrievers_evaluations", created.dataset_id)


async def test_the_published_client_generates_datasets(host: str, space: str) -> None:
    client = EvaluationClient(host, space)
    request = GenerateFromInteractionsRequest(
        dataset_name="clicked", min_interactions=10, lookback_days=days_since_loaded()
    )
    call = "generate_dataset_from_interactions_retrievers_id_evaluations"
    created = await client.call(call, "dense", request)
    assert [query.query_input["text"] for query in created.queries] == ["query 0", "query 1", "query 2"]
    assert created.queries[0].relevance_scores == {"doc-0": 3, "doc-1": 3}
    assert created.metadata["retriever_id"] == "dense"
    assert await client.call("get_dataset_retrievers_evaluations", "clicked") == created
    with pytest.raises(exceptions.UnprocessableEntityException):
        await client.call(call, "nobody", GenerateFromInteractionsRequest(dataset_name="nobody's"))
    with pytest.raises(exceptions.UnprocessableEntityException):
        await client.call(call, "dense")  # the last 30 days have no events
    days = {"lookback_days": days_since_loaded()}
    unnamed = await client.call(call, "dense", GenerateFromInteractionsRequest(**days))
    assert unnamed.dataset_name.startswith("auto_dense_20")


async def test_items_of_a_score_may_have_query_ids(api: httpx.AsyncClient) -> None:
    items = [{"predicted": ["a"], "ground_truth": ["a"]}, {"predicted": ["b"], "ground_truth": ["a"]}]
    named = [{**item, "query_id": f"q{number}"} for number, item in enumerate(items)]
    plain = await api.post(SCORE, json={"items": items, "metrics": ["mrr"]})
    found = await api.post(SCORE, json={"items": named, "metrics": ["mrr"]})
    assert (found.status_code, found.json()) == (200, plain.json())
    assert found.json()["per_item"] == [{"mrr": 1.0}, {"mrr": 0.0}], "numbers alone, as the published model has it"


async def test_a_score_has_intervals(api: httpx.AsyncClient) -> None:
    items = [
        {"predicted": ["a", "b"], "ground_truth": ["a"], "relevance_scores": {"b": 3}},
        {"predicted": ["x"], "ground_truth": []},
        {"predicted": ["a"], "ground_truth": ["a"]},
    ]
    found = (await api.post(SCORE, json={"items": items, "metrics": ["mrr", "ndcg@1"], "k": 5})).json()
    assert found["per_item"][0] == {"mrr": 1.0, "ndcg@1": pytest.approx(1 / 3)}
    assert found["aggregate"]["mrr"] == pytest.approx(2 / 3)
    assert found["intervals"]["mrr"] == {"low": 0.0, "high": 1.0}, "within the metric's range"
    assert found["intervals"]["ndcg@1"]["low"] == 0.0
    assert (found["interval_method"], found["items_without_relevant"]) == ("student", 1)
    single = (await api.post(SCORE, json={"predicted": [], "ground_truth": []})).json()
    assert single["intervals"]["f1"] == {"low": None, "high": None}
    assert set(single["aggregate"].values()) == {0.0}


async def test_a_gate_has_the_verdict_of_each_metric(api: httpx.AsyncClient) -> None:
    items = [
        {"query_id": f"q{n}", "baseline": ["x", "a"], "candidate": ["a", "x"], "ground_truth": ["a"]} for n in range(12)
    ]
    asked = {"items": items, "primary": "mrr@10", "guards": ["recall@2"]}
    found = (await api.post(GATE, json=asked)).json()
    assert (found["passed"], found["reason"], found["count"]) == (True, "mrr@10 rose, and recall@2 held", 12)
    assert found["per_metric"]["mrr@10"] == {
        **{"baseline": 0.5, "candidate": 1.0, "delta": 0.5, "low": 0.5, "high": 0.5},
        **{"state": "rose", "queries_needed": None},
    }
    swapped = [{**item, "baseline": item["candidate"], "candidate": item["baseline"]} for item in items]
    found = (await api.post(GATE, json={**asked, "items": swapped})).json()
    assert (found["passed"], found["regressed_metrics"]) == (False, ["mrr@10"])


ITEM = {"query_id": "q", "baseline": [], "candidate": [], "ground_truth": []}


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        (SCORE, {"predicted": ["a"]}, 422, "body: send predicted and ground_truth, or items"),
        (SCORE, {"predicted": [], "ground_truth": [], "items": [{}]}, 422, "send predicted"),
        (SCORE, {"items": []}, 422, "body.items"),
        (SCORE, {"items": [{"predicted": [1]}]}, 422, "body.items.0.predicted.0"),
        (SCORE, {"items": [{"expected": []}]}, 422, "body.items.0.expected"),
        (SCORE, {"items": [{"relevance_scores": {"a": 6}}]}, 422, "relevance_scores.a"),
        (SCORE, {"items": [{}], "metrics": ["dcg"]}, 422, "'dcg' is not a metric"),
        (SCORE, {"items": [{}], "metrics": []}, 422, "body.metrics"),
        (SCORE, {"items": [{}], "k": 0}, 422, "body.k"),
        (SCORE, {"items": [{}], "k": True}, 422, "body.k"),
        (SCORE, {"items": [{}] * 51}, 422, "TALLY_EVALUATION_QUERIES"),
        (SCORE, {"items": [{"predicted": ["a"] * 1_001}]}, 422, "TALLY_EVALUATION_DOCUMENTS"),
        (SCORE, {"items": [{"predicted": ["a" * 100_000]}]}, 413, "larger than 100000 bytes"),
        (SCORE, [], 422, "body"),
        (GATE, {"items": [ITEM, ITEM]}, 422, "two items have the same query_id"),
        (GATE, {"items": [ITEM], "primary": "best"}, 422, "'best' is not a metric"),
        (GATE, {"items": [ITEM], "guards": ["best"]}, 422, "'best' is not a metric"),
        (GATE, {"items": [ITEM], "tolerance": -1}, 422, "body.tolerance"),
        (GATE, {"items": [{**ITEM, "query_id": None}]}, 422, "query_id"),
        (DATASETS, {"dataset_name": "", "queries": [QUERY]}, 422, "body.dataset_name"),
        (DATASETS, {"dataset_name": "x" * 201, "queries": [QUERY]}, 422, "body.dataset_name"),
        (DATASETS, {"dataset_name": "a\u0000b", "queries": [QUERY]}, 422, "printable characters"),
        (DATASETS, {"dataset_name": "..", "queries": [QUERY]}, 422, "printable characters"),
        (DATASETS, {"dataset_name": "x", "queries": []}, 422, "body.queries"),
        (DATASETS, {"dataset_name": "x", "queries": [QUERY, QUERY]}, 422, "the same query_id"),
        (DATASETS, {"dataset_name": "x", "queries": [QUERY] * 51}, 422, "the same query_id"),
        (DATASETS, {"dataset_name": "x", "queries": [{**QUERY, "query_input": "x"}]}, 422, "query_input"),
        (DATASETS, {"dataset_name": "x", "queries": [{**QUERY, "relevance_scores": {"a": 1.5}}]}, 422, "scores.a"),
        (DATASETS, {"dataset_name": "x", "queries": [QUERY], "metadata": {"a": "\ud800"}}, 422, "surrogate"),
        (GENERATE, {"lookback_days": 366}, 422, "body.lookback_days"),
        (GENERATE, {"min_interactions": 0}, 422, "body.min_interactions"),
        (GENERATE, {"positive_interaction_types": ["love"]}, 422, "positive_interaction_types.0"),
        (
            DATASETS,
            {"dataset_name": "x", "queries": [{**QUERY, "query_input": {"a": "\ud800"}}]},
            422,
            "body.queries: holds half",
        ),
        (
            DATASETS,
            {"dataset_name": "x", "queries": [{**QUERY, "relevant_documents": ["\ud800"]}]},
            422,
            "body.queries: holds half",
        ),
        (
            DATASETS,
            {"dataset_name": "x", "queries": [{**QUERY, "relevance_scores": {"\ud800": 1}}]},
            422,
            "body.queries: holds half",
        ),
        (DATASETS, {"dataset_name": "x", "queries": [QUERY], "description": "\ud800"}, 422, "body.description"),
        (DATASETS, {"dataset_name": "x", "queries": [{**QUERY, "relevant_documents": ["a", "b", "a"]}]}, 422, "'a' is"),
        (GENERATE, {"positive_interaction_types": ["click", "impression"]}, 422, "impression is no positive type"),
        (GENERATE, {"positive_interaction_types": ["negative_feedback"]}, 422, "negative_feedback is no positive"),
        (GENERATE, {"positive_interaction_types": []}, 422, "positive_interaction_types"),
        (GENERATE, {"unknown": 1}, 422, "body.unknown"),
        (GENERATE.replace("dense", "x" * 300), {"lookback_days": 300}, 422, "the default name has more than 200"),
        (GENERATE.replace("dense", "x" * 1_025), {}, 422, "path.retriever_id"),
    ],
)
async def test_a_bad_request_names_the_field(
    api: httpx.AsyncClient, path: str, body: Any, status: int, says: str
) -> None:
    answer = await api.post(path, content=json.dumps(body))
    assert_error(answer, status, "ValidationError" if status == 422 else "PayloadTooLargeError")
    assert says in answer.json()["error"]["message"], answer.text


async def test_a_slow_body_occupies_no_slot_of_estimates(shared_lab: Lab) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def slow_body() -> AsyncIterator[bytes]:
        yield b'{"predicted": ["a"],'
        begun.set()
        await ended.wait()
        yield b'"ground_truth": ["a"]}'

    settings = with_key(shared_lab.settings, learning_in_flight=1, learning_bodies_in_flight=2)
    fast: dict[str, list[str]] = {"predicted": [], "ground_truth": []}
    async with api_of(settings, "reader") as api, asyncio.TaskGroup() as tasks:
        first = tasks.create_task(api.post(SCORE, content=slow_body()))
        await begun.wait()
        assert (await api.post(SCORE, json=fast)).status_code == 200
        assert (await api.get(DATASETS)).status_code == 200
        begun.clear()
        second = tasks.create_task(api.post(DATASETS, content=slow_body()))
        await begun.wait()
        refused = await api.post(SCORE, json=fast)
        ended.set()
    assert "TALLY_LEARNING_BODIES_IN_FLIGHT" in assert_error(refused, 503, "ServiceUnavailableError")["message"]
    assert (first.result().status_code, second.result().status_code) == (200, 422)


async def test_a_number_that_no_float_holds_is_named(api: httpx.AsyncClient) -> None:
    body = json.dumps({"dataset_name": "x", "queries": [QUERY], "metadata": {"a": 0.5}}).replace("0.5", "1e400")
    error = assert_error(await api.post(DATASETS, content=body), 422, "ValidationError")
    assert "body.metadata" in error["message"]
    assert "bad_number" in json.dumps(error)


async def test_spellings_of_a_metric_are_one_metric(api: httpx.AsyncClient) -> None:
    asked = {"items": [ITEM], "primary": "mrr@10", "guards": ["mrr@010", "mrr@10 ", "recall@2", " recall@02"]}
    found = (await api.post(GATE, json=asked)).json()
    assert [*found["per_metric"]] == ["mrr@10", "recall@2"]
    found = (await api.post(SCORE, json={"items": [{}], "metrics": ["ndcg ", "ndcg"], "k": 5})).json()
    assert found["metrics"] == ["ndcg"]


async def test_errors_of_datasets_have_codes(api: httpx.AsyncClient) -> None:
    body = {"dataset_name": "taken", "queries": [QUERY]}
    assert (await api.post(DATASETS, json=body)).status_code == 200
    assert_error(await api.post(DATASETS, json=body), 409, "ConflictError", "dataset_exists")
    assert_error(await api.post(GENERATE, json={"dataset_name": "taken"}), 409, "ConflictError", "dataset_exists")
    assert_error(await api.post(GENERATE, json={"dataset_name": "new"}), 422, "ValidationError", "refused")
    assert_error(await api.get(f"{DATASETS}/nothing"), 404, "NotFoundError", "unknown_dataset")
    assert_error(await api.get(DATASETS, params={"page_size": 1_001}), 422, "ValidationError")
    assert (await api.delete(f"{DATASETS}/taken")).json() == {"message": "the dataset is deleted", "success": True}
    assert_error(await api.delete(f"{DATASETS}/taken"), 404, "NotFoundError", "unknown_dataset")
    assert (await api.get(DATASETS, params={"page_size": 1})).json()["page_size"] == 1


async def test_hostile_texts_come_back_as_they_are(api: httpx.AsyncClient) -> None:
    text = "\u202egnirts \u0000 '); DROP TABLE x; -- \u2028 🎈" + "x" * 60_000
    query = {**QUERY, "query_input": {text[:9]: [text, None, 1.5, {"a": {}}]}, "relevant_documents": [text[:100], ""]}
    query["relevance_scores"] = {text[:100]: 0}
    made = await api.post(DATASETS, json={"dataset_name": "'); -- {x:String} é", "queries": [query]})
    assert made.json()["queries"] == [query]
    assert (await api.get(f"{DATASETS}/{made.json()['dataset_id']}")).json() == made.json()
    scored = await api.post(SCORE, json={"predicted": [text[:99]], "ground_truth": [text[:99]], "metrics": ["ndcg"]})
    assert scored.json()["aggregate"] == {"ndcg": 1.0}
    await api.delete(f"{DATASETS}/{made.json()['dataset_id']}")


async def test_scopes_and_namespaces_are_checked(api: httpx.AsyncClient) -> None:
    for method, path in (("POST", SCORE), ("POST", GATE), ("GET", DATASETS), ("POST", DATASETS), ("POST", GENERATE)):
        answer = await api.request(method, path, headers={"Authorization": "Bearer wrong"})
        assert answer.status_code in (401, 503), path
    other = await api.get(DATASETS, headers={"Authorization": f"Bearer {KEY}", "X-Namespace": "another"})
    assert_error(other, 403, "ForbiddenError")


async def test_the_document_has_the_endpoints(api: httpx.AsyncClient) -> None:
    document = (await api.get("/openapi.json")).json()
    assert set(document["paths"][f"{DATASETS}/{{dataset_identifier}}"]) == {"get", "delete"}
    body = document["paths"][SCORE]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert set(body["properties"]) == {"predicted", "ground_truth", "items", "metrics", "k"}
    assert "409" in document["paths"][DATASETS]["post"]["responses"]
