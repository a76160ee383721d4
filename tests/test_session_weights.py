"""Weights from end to end: posted events, a worker, session signals, counts, and the erasure of a user."""

from typing import Any

import httpx

from learning.weights.aggregates import count_once
from learning.weights.counts import GLOBAL
from learning.weights.decisions import WeightRequest
from learning.weights.inspection import explain_weights
from schemas.learning_config import LearningConfig
from tests.http_lab import PATH, api_of, consuming, with_key
from tests.lab import Lab
from tests.test_weights_http import EXACT, QUICK
from tests.weights_lab import count, publish_config, publish_counts, today

WEIGHTS = "/v1/retrievers/dense/weights"
STORED = {"Prefer": "wait=10"}


def event(number: int, kind: str, feature: str, **fields: Any) -> dict[str, Any]:
    """An event of a result that image or text found."""
    plain = {"feature_id": f"doc-{number}", "interaction_type": [kind], "position": number, "retriever_id": "dense"}
    return {**plain, "execution_id": f"search-{number}", "feature_uri": feature, **fields}


async def post(api: httpx.AsyncClient, namespace: str = "default", **fields: Any) -> str:
    """Post an event, and wait until it is stored; returns its id."""
    answer = await api.post(PATH, json=event(**fields), headers={**STORED, "X-Namespace": namespace})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["interaction_id"])


async def ask(api: httpx.AsyncClient, namespace: str = "default", **query: Any) -> dict[str, Any]:
    """The mean weights of a request."""
    answer = await api.get(WEIGHTS, params={"mean": "true", **query}, headers={"X-Namespace": namespace})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_three_clicks_of_a_session_change_the_weights_of_its_next_request(lab: Lab) -> None:
    taught = [count(feature, 10_000, impression=1) for feature in ("image", "text")]
    taught += [count(feature, 10_000, impression=1, click=1) for feature in ("image", "text")]
    await publish_config(lab.database, "dense", LearningConfig(**EXACT))
    await publish_counts(lab.database, "dense", {GLOBAL: taught})
    async with consuming(lab.settings), api_of(with_key(lab.settings, **QUICK)) as api:
        before = await ask(api, session_id="visit")
        assert before["weights"] == {"image": 0.5, "text": 0.5}
        assert before["learned_fusion_context"]["session"] is False
        for number in range(3):
            await post(api, number=number, kind="click", feature="image", session_id="visit")
        after = await ask(api, session_id="visit")
        assert after["learned_fusion_context"]["session"] is True
        assert after["learned_fusion_context"]["posterior"]["image"] == [13, 10]
        assert after["weights"]["image"] > 0.53
        assert (await ask(api, session_id="another visit"))["weights"] == before["weights"]
    request = WeightRequest("default", "dense", session_id="visit", is_mean=True)
    explained = await explain_weights(lab.settings, lab.database, request, today())
    assert explained.decision.weights == after["weights"]


async def test_an_erased_user_leaves_the_weights_of_a_log_without_the_user(lab: Lab) -> None:
    """The same events in two namespaces, one of them with another user's, who is erased in the middle."""
    config = LearningConfig(min_interactions=1, **EXACT)
    settings = with_key(lab.settings, **QUICK)
    async with consuming(lab.settings), api_of(settings) as api:
        for namespace in ("default", "shop"):
            await publish_config(lab.database, "dense", config, namespace=namespace)
        erased = [
            await post(api, "shop", number=number, kind=kind, feature="image", user_id="ann", session_id="of ann")
            for number in (0, 1)
            for kind in ("impression", "click")
        ]
        await feed_bob(api, 2)
        await count_once(settings)
        assert (await ask(api, "shop", user_id="ann"))["learned_fusion_context"]["context_level"] == "personal"
        assert (await ask(api, "shop", session_id="of ann"))["learned_fusion_context"]["session"] is True
        for interaction_id in erased:
            assert (await api.delete(f"{PATH}/{interaction_id}", headers={"X-Namespace": "shop"})).status_code == 200
        await feed_bob(api, 3)
        await count_once(settings)
    async with api_of(settings) as api:
        for query in ({}, {"user_id": "bob"}, {"user_id": "ann"}, {"session_id": "of ann"}):
            with_user, without = await ask(api, "shop", **query), await ask(api, "default", **query)
            for answer in (with_user, without):
                answer["learned_fusion_context"].pop("signal_id")
                if answer["learned_fusion_context"]["context_level"] == "personal":
                    answer["learned_fusion_context"].pop("context_key")  # a hash of namespace and user
            assert with_user == without
            assert (without["learned_fusion_context"]["context_level"] == "personal") == (query == {"user_id": "bob"})


async def feed_bob(api: httpx.AsyncClient, number: int) -> None:
    """Post an impression and a click of the other user in both namespaces."""
    for namespace in ("default", "shop"):
        await post(api, namespace, number=number, kind="impression", feature="text", user_id="bob")
        await post(api, namespace, number=number, kind="click", feature="text", user_id="bob")
        await post(api, namespace, number=number + 10, kind="impression", feature="image", user_id="bob")
