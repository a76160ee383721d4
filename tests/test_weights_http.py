"""Weights over HTTP: levels, new counts, recorded decisions, and static weights while the stores are away."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from learning.weights.counts import GLOBAL, ContextKey
from schemas.learning_config import LearningConfig
from tests.chaos.proxy import Proxy, proxy_to
from tests.http_lab import api_of, assert_error, with_key
from tests.lab import Lab, at_port
from tests.waiting import eventually_async
from tests.weights_lab import count, publish_config, publish_counts

PATH = "/v1/retrievers/dense/weights"
ANN, PHONES = ContextKey("personal", "ann"), ContextKey("segment", "phone")
QUICK: dict[str, Any] = {"learning_config_refresh_ms": 50, "weights_refresh_ms": 50, "breaker_open_ms": 50}
PATIENT: dict[str, Any] = {"circuit_breaker_timeout_ms": 30_000}
EXACT: dict[str, Any] = {"decay_factor": 1.0, "min_weight": 0.0, "max_weight": 1.0, **PATIENT}


def clicks(results: int, feature: str = "image") -> list[Any]:
    """Counts of results that were shown and clicked."""
    return [count(feature, results, impression=1, click=1)]


@asynccontextmanager
async def weights_api(lab: Lab, config: LearningConfig | None, **overrides: Any) -> AsyncIterator[httpx.AsyncClient]:
    """The API, with a configuration of the retriever `dense`."""
    if config is not None:
        await publish_config(lab.database, "dense", config)
    async with api_of(with_key(lab.settings, **QUICK | overrides)) as api:
        yield api


async def ask(api: httpx.AsyncClient, **query: Any) -> dict[str, Any]:
    answer = await api.get(PATH, params=query)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def context(api: httpx.AsyncClient, **query: Any) -> dict[str, Any]:
    found: dict[str, Any] = (await ask(api, **query))["learned_fusion_context"]
    return found


async def test_each_level_is_served_from_its_own_counts(lab: Lab) -> None:
    config = LearningConfig(min_interactions=3, demographic_features=("INPUT.device",), **EXACT)
    counts = {ANN: clicks(3), PHONES: clicks(5, "text"), GLOBAL: [*clicks(8), count("text", 24, impression=1)]}
    await publish_counts(lab.database, "dense", counts)
    async with weights_api(lab, config) as api:
        personal = await ask(api, user_id="ann", segment="phone", mean="true")
        assert personal["learned_fusion_context"]["context_level"] == "personal"
        assert personal["learned_fusion_context"]["posterior"] == {"image": [4, 1], "text": [1, 1]}
        assert personal["weights"] == {"image": pytest.approx(0.8 / 1.3), "text": pytest.approx(0.5 / 1.3)}
        again = await ask(api, user_id="ann", segment="phone", mean="true")
        assert again["learned_fusion_context"].pop("signal_id") != personal["learned_fusion_context"].pop("signal_id")
        assert again == personal
        segment = await context(api, user_id="bob", segment="phone")
        assert (segment["context_key"], segment["interactions"]) == ("segment:phone", 5)
        everyone = await context(api, user_id="bob", segment="tablet", feature_uris="text,new")
        assert (everyone["context_key"], everyone["interactions"]) == ("global", 8)
        assert everyone["posterior"] == {"text": [1, 25], "new": [1, 1]}
        assert everyone["feature_uris"] == ["text", "new"]


async def test_users_with_long_names_do_not_take_the_weights_of_others(lab: Lab) -> None:
    """Simultaneous requests share a query, whose URL has the names of all users."""
    await publish_counts(lab.database, "dense", {ANN: clicks(9), GLOBAL: clicks(9)})
    async with weights_api(lab, LearningConfig(**EXACT)) as api:
        names = ["ann", *("\N{GRINNING FACE}" * 120 + f"{number:03}" for number in range(100))]
        found = await asyncio.gather(*(context(api, user_id=name) for name in names))
        assert [each["context_level"] for each in found] == ["personal", *["global"] * 100]


async def test_new_counts_and_configurations_change_the_next_weights(lab: Lab) -> None:
    await publish_counts(lab.database, "dense", {GLOBAL: [count("image", 9, impression=1)]})
    async with weights_api(lab, LearningConfig(**EXACT)) as api:
        assert (await context(api))["posterior"] == {"image": [1, 10]}
        await publish_counts(lab.database, "dense", {GLOBAL: [count("image", 9, impression=1), *clicks(3)]}, 2)
        await eventually_async(lambda: has(api, posterior={"image": [4, 10]}))
        await publish_config(lab.database, "dense", LearningConfig(prior_alpha=5, **EXACT), version=2)
        await eventually_async(lambda: has(api, posterior={"image": [8, 10]}, config_version=2))
        await publish_config(lab.database, "dense", None, version=3)
        await eventually_async(lambda: has(api, feature_uris="image", reason="no_config"))


async def has(api: httpx.AsyncClient, feature_uris: str = "", **expected: Any) -> bool:
    """Whether the context of the next answer has these values."""
    answer = await api.get(PATH, params={"feature_uris": feature_uris})
    found = answer.json().get("learned_fusion_context", {})
    return {name: found.get(name) for name in expected} == expected


async def test_the_contexts_in_memory_are_bounded(lab: Lab) -> None:
    users = [ContextKey("personal", f"user-{number}") for number in range(20)]
    await publish_counts(lab.database, "dense", {user: clicks(number + 1) for number, user in enumerate(users)})
    async with weights_api(lab, LearningConfig(min_interactions=1, **PATIENT), weight_contexts=3) as api:
        for _ in range(2):
            found = await asyncio.gather(*(context(api, user_id=user.context) for user in users))
            assert [each["interactions"] for each in found] == list(range(1, 21))
        metrics = (await api.get("/metrics")).text
    assert "tally_weights_contexts 3.0" in metrics


async def test_decisions_are_recorded_without_users(lab: Lab) -> None:
    await publish_counts(lab.database, "dense", {ANN: clicks(9), GLOBAL: clicks(9)})
    async with weights_api(lab, LearningConfig(shadow_mode=True, **PATIENT)) as api:
        served = await ask(api, user_id="ann", execution_id="search-1", feature_uris="image,text")
        await ask(api, user_id="ann", feature_uris="image")
    rows = await lab.database.rows(
        "SELECT namespace, retriever_id, signal_type, execution_id, signal_data FROM signals FINAL ORDER BY signal_id"
    )
    assert {row[:4] for row in map(tuple, rows)} == {
        ("default", "dense", "learned_weights", execution) for execution in ("search-1", "")
    }
    (data,) = (json.loads(row[4]) for row in rows if row[3] == "search-1")
    assert served["weights"] == data["weights"] == {"image": 0.5, "text": 0.5}
    assert data["learned_weights"] != data["weights"]
    assert len(data["seed"]) == 16
    for name, value in served["learned_fusion_context"].items():
        assert data[name] == value
    assert "ann" not in str(rows)


async def test_rollout_and_unknown_retrievers_have_static_weights(lab: Lab) -> None:
    await publish_counts(lab.database, "dense", {GLOBAL: clicks(9)})
    async with weights_api(lab, LearningConfig(rollout_pct=0, **PATIENT)) as api:
        assert (await context(api, user_id="ann"))["reason"] == "rollout"
        other = await api.get("/v1/retrievers/other/weights", params={"feature_uris": "a,b"})
        assert other.json()["weights"] == {"a": 0.5, "b": 0.5}
        assert other.json()["learned_fusion_context"]["reason"] == "no_config"
        error = assert_error(await api.get("/v1/retrievers/other/weights"), 404, "NotFoundError")
        assert "feature_uris" in error["message"]
        metrics = (await api.get("/metrics")).text
    assert 'tally_weights_decisions_total{level="static",reason="rollout"}' in metrics


async def test_a_retriever_without_counts_has_its_own_error(lab: Lab) -> None:
    async with weights_api(lab, LearningConfig(**PATIENT)) as api:
        error = assert_error(await api.get(PATH), 404, "NotFoundError")
    every = f"{lab.settings.aggregates_every_ms:,} ms (TALLY_AGGREGATES_EVERY_MS)"
    assert (
        f"no counted results of retriever 'dense' have a feature_uri: stored events are counted within {every}"
        in error["message"]
    )
    assert "`tally learn counts` shows the state; name feature_uris meanwhile" in error["message"]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (
            {"feature_uri": "a"},
            "query.feature_uri: is not a parameter of this call; known are user_id, session_id, segment, "
            "feature_uris, execution_id, mean",
        ),
        ({"feature_uris": "a,,b"}, "query.feature_uris: a name is empty: separate names by one comma"),
        ({"feature_uris": "a,b,a"}, "query.feature_uris: a name occurs twice"),
        ({"feature_uris": ",".join(map(str, range(51)))}, "query.feature_uris: 51 features, at most 50 are allowed"),
        ({"feature_uris": "x" * 2_049}, "query.feature_uris: a name has more than 2048 characters"),
        ({"user_id": "x" * 513}, "query.user_id: String should have at most 512 characters"),
        ({"mean": "maybe"}, "query.mean: Input should be a valid boolean, unable to interpret input"),
    ],
)
async def test_invalid_requests_are_refused(shared_api: httpx.AsyncClient, query: Any, message: str) -> None:
    error = assert_error(await shared_api.get(PATH, params=query), 422, "ValidationError")
    assert error["message"] == message


async def test_the_route_is_one_of_the_api(shared_api: httpx.AsyncClient) -> None:
    long = await shared_api.get(f"/v1/retrievers/{'x' * 1_025}/weights", params={"feature_uri": "a"})
    error = assert_error(long, 422, "ValidationError")
    assert [each["location"] for each in error["details"]["validation_errors"]] == [
        ["path", "retriever_id"],
        ["query", "feature_uri"],
    ]
    assert (await shared_api.get(PATH, params={"feature_uris": "a"})).json()["weights"] == {"a": 1.0}
    assert (await shared_api.head(PATH, params={"feature_uris": "a"})).status_code == 200
    assert_error(await shared_api.put(PATH), 405, "MethodNotAllowedError")
    assert_error(await shared_api.get("/v1/retrievers//weights"), 404, "NotFoundError")
    assert_error(await shared_api.get(PATH, headers={"Authorization": "Bearer x"}), 401, "UnauthorizedError")
    document = (await shared_api.get("/openapi.json")).json()["paths"]["/v1/retrievers/{retriever_id}/weights"]["get"]
    assert {each["name"] for each in document["parameters"]} >= {"retriever_id", "user_id", "feature_uris", "mean"}
    assert "404" in document["responses"]


@asynccontextmanager
async def behind_proxy(lab: Lab, config: LearningConfig, **overrides: Any) -> AsyncIterator[tuple[Any, Proxy]]:
    """The API with a proxy in front of ClickHouse, once it serves learned weights."""
    port = urlsplit(lab.settings.clickhouse.get_secret_value()).port or 0
    await publish_counts(lab.database, "dense", {GLOBAL: clicks(9)})
    async with proxy_to(port) as proxy:
        there = at_port(lab.settings.clickhouse, proxy.port)
        async with weights_api(lab, config, clickhouse=there, **overrides) as api:
            await eventually_async(lambda: has(api, context_level="global"))
            yield api, proxy


async def test_static_weights_are_served_while_clickhouse_is_too_slow(lab: Lab) -> None:
    async with behind_proxy(lab, LearningConfig(), breaker_open_ms=5_000) as (api, proxy):
        proxy.hold_answers()
        late = await ask(api, user_id="ann")
        assert late["learned_fusion_context"]["reason"] == "too_late"
        assert late["weights"] == {"image": 1.0}  # the features that were known before
        assert (await context(api, user_id="bob", feature_uris="a"))["reason"] == "breaker"
        assert "tally_weights_breaker_open 1.0" in (await api.get("/metrics")).text
        proxy.release_answers()
        await publish_config(lab.database, "dense", None, version=2)
        await eventually_async(lambda: has(api, feature_uris="a", reason="no_config"))
        assert "tally_weights_breaker_open 0.0" in (await api.get("/metrics")).text, "no alert about no configuration"


async def test_learned_weights_return_with_clickhouse(lab: Lab) -> None:
    async with behind_proxy(lab, LearningConfig(**PATIENT)) as (api, proxy):
        proxy.refusing = True
        proxy.cut()
        assert (await context(api, user_id="ann"))["reason"] == "store"
        proxy.refusing = False
        await eventually_async(lambda: has(api, reason=""))
        assert "tally_weights_breaker_open 0.0" in (await api.get("/metrics")).text
    reasons = "SELECT DISTINCT JSONExtractString(signal_data, 'reason') FROM signals ORDER BY 1"
    assert ["store"] in [list(row) for row in await lab.database.rows(reasons)]


async def test_decisions_beyond_the_bound_are_counted(lab: Lab) -> None:
    async with behind_proxy(lab, LearningConfig(**PATIENT), signals_waiting=2) as (api, proxy):
        proxy.refusing = True
        proxy.cut()
        before = await dropped(api)
        for _ in range(5):
            await ask(api)
        assert await dropped(api) >= before + 3
        proxy.refusing = False


async def test_the_bytes_of_waiting_decisions_are_bounded(lab: Lab) -> None:
    names = ",".join("x" * 500 + str(number) for number in range(50))
    overrides = {"signals_waiting_bytes": 1024 * 1024}
    async with behind_proxy(lab, LearningConfig(**PATIENT), **overrides) as (api, proxy):
        proxy.refusing = True
        proxy.cut()
        before = await dropped(api)
        for _ in range(30):  # each of them has more than 50 kB, twice
            await ask(api, feature_uris=names)
        assert await dropped(api) > before
        proxy.refusing = False


async def dropped(api: httpx.AsyncClient) -> float:
    """Decisions that were dropped so far, in all tests of this process."""
    lines = (await api.get("/metrics")).text.splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("tally_signals_dropped_total")))
