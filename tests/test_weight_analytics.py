"""Signals, performance, weights of past days and use of session signals: over HTTP, and by the published client."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import mixpeek
import numpy as np
import pytest
from scipy import stats

from learning.estimators.posterior import ResultCount, clipped_weights, day_sums, effective_exploration, posterior
from learning.estimators.weight_history import days_at_bound, weight_days
from learning.weights import history
from learning.weights.configs import LearningConfigVersions
from learning.weights.history import date_of, today_utc
from schemas.event_time import iso_ms
from schemas.interaction import Interaction
from schemas.learning_config import LearningConfig
from schemas.type_sets import type_set
from tests.evaluation_lab import loaded
from tests.http_lab import KEY, NAMESPACES, api_of, assert_error, served, with_key
from tests.lab import Lab

SPACE = "analytics"
NUMBERS = itertools.count()
DAY = datetime(2026, 3, 4, 10, tzinfo=UTC)
SHOWN, CLICKED = type_set(["impression"]), type_set(["click"])


def retriever() -> str:
    """A retriever that no other test has."""
    return f"weighted-{next(NUMBERS)}"


@pytest.fixture(scope="module")
async def api(shared_lab: Lab) -> AsyncIterator[httpx.AsyncClient]:
    settings = with_key(shared_lab.settings, api_namespaces=(SPACE, *NAMESPACES))
    async with api_of(settings, "reader") as client:
        yield client


def search(name: str, at: datetime, *, clicked: bool, decision: dict[str, Any] | None = None) -> list[Interaction]:
    """Return the events of an execution with two results; the click on the second one names no retriever."""
    number = next(NUMBERS)
    shared: dict[str, Any] = {"execution_id": f"run-{number}", "occurred_at": at.isoformat()}
    if decision is not None:
        shared["metadata"] = {"learned_fusion_context": decision}
    events = [
        Interaction(
            feature_id=f"doc-{place}", interaction_type=["impression"], position=place, retriever_id=name, **shared
        )
        for place in range(2)
    ]
    if clicked:
        events.append(Interaction(feature_id="doc-1", interaction_type=["click"], position=1, **shared))
    return events


async def test_performance_has_the_metrics_of_reports_by_period(api: httpx.AsyncClient, shared_lab: Lab) -> None:
    name, other = retriever(), retriever()
    events = [
        search(name, DAY + timedelta(days=day), clicked=run < clicks)
        for day, clicks in ((0, 1), (7, 3))
        for run in range(4)
    ]
    events.append(search(other, DAY, clicked=True))
    await loaded(shared_lab, SPACE, *itertools.chain(*events))
    url = f"/v1/analytics/retrievers/{name}/performance"
    asked = {"start_date": "2026-03-01", "end_date": "2026-03-20T00:00:00Z"}
    found = (await api.get(url, params=asked)).json()
    assert found["time_range"] == {"start": "2026-03-01T00:00:00.000Z", "end": "2026-03-20T00:00:00.000Z"}
    first, second = found["metrics"]
    assert (first["time_bucket"], second["time_bucket"]) == ("2026-03-04T00:00:00.000Z", "2026-03-11T00:00:00.000Z")
    assert (first["execution_count"], first["with_results"], first["ctr"], first["mrr"]) == (4, 4, 0.25, 0.125)
    assert first["reward"] == 0.25, "a click without a retriever belongs to its execution"
    interval = stats.binomtest(1, 4).proportion_ci(method="wilson")
    assert (first["ctr_low"], first["ctr_high"]) == pytest.approx((interval.low, interval.high))
    assert (second["execution_count"], second["ctr"]) == (4, 0.75)
    assert (found["summary"]["total_executions"], found["summary"]["ctr"]) == (8, 0.5)
    by_hour = (await api.get(url, params={**asked, "group_by": "hour"})).json()["metrics"]
    assert [each["time_bucket"] for each in by_hour] == ["2026-03-04T10:00:00.000Z", "2026-03-11T10:00:00.000Z"]
    by_week = (await api.get(url, params={**asked, "group_by": "week"})).json()["metrics"]
    assert [each["time_bucket"] for each in by_week] == ["2026-03-02T00:00:00.000Z", "2026-03-09T00:00:00.000Z"]
    nothing = (await api.get(url)).json()
    assert (nothing["metrics"], nothing["summary"]["total_executions"]) == ([], 0)


async def test_executions_are_compared_by_the_use_of_session_signals(api: httpx.AsyncClient, shared_lab: Lab) -> None:
    name = retriever()
    groups: list[tuple[dict[str, Any] | None, int, int]] = [
        ({"context_level": "personal", "session": True}, 3, 3),
        ({"context_level": "global", "session": False, "shadow": False}, 1, 9),
        ({"context_level": "static"}, 0, 2),
        ({"context_level": "global", "session": True, "shadow": True}, 1, 1),
        ({"context_level": 5}, 0, 1),
        (None, 1, 2),
    ]
    events = [
        search(name, DAY, clicked=run < clicks, decision=decision)
        for decision, clicks, runs in groups
        for run in range(runs)
    ]
    await loaded(shared_lab, SPACE, *itertools.chain(*events))
    url = f"/v1/retrievers/{name}/weights/sessions"
    found = (await api.get(url, params={"since": "2026-03-01", "until": "2026-03-20"})).json()
    counts = {group: values["executions"] for group, values in found["groups"].items()}
    assert counts == {"session": 3, "no_session": 9, "not_learned": 3, "no_decision": 3}
    session, other = found["groups"]["session"], found["groups"]["no_session"]
    assert (session["reward"], other["reward"]) == pytest.approx((1, 1 / 9))
    values = np.array([1.0] + [0.0] * 8)
    low, high = stats.t.interval(0.95, 8, values.mean(), stats.sem(values))
    assert (other["reward_low"], other["reward_high"]) == pytest.approx((low, high))
    assert (session["share"], other["share"]) == (0.25, 0.75)
    interval = stats.binomtest(3, 12).proportion_ci(method="wilson")
    assert (session["share_low"], session["share_high"]) == pytest.approx((interval.low, interval.high))
    assert found["groups"]["not_learned"]["share"] is None
    assert "not what the signals cause" in found["notes"][0]


def counts_of(days: dict[int, tuple[int, int]], feature: str = "text") -> list[ResultCount]:
    """Return counts of shown results without a click, and of clicked ones, by day."""
    return [
        each
        for day, (shown, clicked) in days.items()
        for each in (
            ResultCount(day, feature, (SHOWN,), (1,), shown),
            ResultCount(day, feature, (SHOWN, CLICKED), (1, 1), clicked),
        )
        if each.results
    ]


async def publish(lab: Lab, name: str, level: str, context: str, counts: list[ResultCount]) -> None:
    """Store counts of days as a count of the retriever does."""
    for day in sorted({each.day for each in counts}):
        await lab.database.command(f"INSERT INTO learning_days VALUES ('{SPACE}', '{name}', toDate({day}), 1)")
    for each in counts:
        values = f"'{level}', '{context}', toDate({each.day}), 1, '{each.feature_uri}'"
        sets = f"{list(each.type_sets)}, {list(each.times)}, {each.results}"
        await lab.database.command(f"INSERT INTO learning_counts VALUES ('{SPACE}', '{name}', {values}, {sets})")


async def test_the_weights_of_each_day_are_those_of_the_counts_up_to_it(
    api: httpx.AsyncClient, shared_lab: Lab
) -> None:
    name, today = retriever(), today_utc()
    url = f"/v1/retrievers/{name}/weights/history"
    assert_error(await api.get(url), 404, "NotFoundError", "unknown_config")
    config = LearningConfig(decay_factor=0.9, reward_map={"click": 0.5}, demographic_features=("INPUT.country",))
    versions = LearningConfigVersions(shared_lab.settings, shared_lab.database, SPACE)
    await versions.put(name, config)
    text = counts_of({today - 3: (5, 1), today - 1: (0, 4)})
    image = counts_of({today - 2: (2, 0)}, "image")
    await publish(shared_lab, name, "global", "", text + image)
    await publish(shared_lab, name, "segment", "de", counts_of({today: (0, 2)}))
    found = (await api.get(url, params={"days": 4})).json()
    assert [each["day"] for each in found["days"]] == [date_of(today - age).isoformat() for age in (3, 2, 1, 0)]
    assert [[each["feature_uri"] for each in day["features"]] for day in found["days"]] == [["text"]] + [
        ["image", "text"]
    ] * 3
    for age, day in zip((3, 2, 1, 0), found["days"], strict=True):
        known = posterior([each for each in text + image if each.day <= today - age], config, today - age)
        assert [(each["alpha"], each["beta"]) for each in day["features"]] == [
            tuple(each) for each in known.shapes.values()
        ]
        assert day["interactions"] == known.interactions
        assert day["effective_exploration"] == effective_exploration(config, known.interactions)
        assert [each["weight"] for each in day["features"]] == clipped_weights(
            [each.mean for each in known.shapes.values()], config
        )
        for each in day["features"]:
            expected = stats.beta.interval(0.95, each["alpha"], each["beta"])
            assert (each["low"], each["high"]) == pytest.approx(expected)
    assert len((await api.get(url, params={"days": 1})).json()["days"]) == 1
    segment = (await api.get(url, params={"level": "segment", "segment": "de"})).json()
    assert [(each["day"], len(each["features"])) for each in segment["days"]] == [(date_of(today).isoformat(), 1)]
    assert (await api.get(url, params={"segment": "de"})).json() == segment
    user = await api.get(url, params={"user_id": "a-secret-name"})
    assert user.json()["level"] == "personal"
    assert user.json()["days"] == []
    assert "a-secret-name" not in user.text


@pytest.mark.parametrize(
    ("path", "query", "says"),
    [
        ("weights/history", {"level": "personal"}, "query.user_id: the level personal needs a user_id"),
        ("weights/history", {"level": "segment"}, "query.segment: the level segment needs a segment"),
        (
            "weights/history",
            {"level": "segment", "segment": "x"},
            "query.level: the learning configuration has no segments",
        ),
        (
            "weights/history",
            {"level": "personal", "user_id": "x"},
            "query.level: the learning configuration has no weights by",
        ),
        ("weights/history", {"user_id": "x", "segment": "de"}, "query.segment: a history is of a user or of a segment"),
        ("weights/history", {"user_id": "x", "level": "segment"}, "query.level: contradicts the user_id that is given"),
        ("weights/history", {"level": "all"}, "query.level"),
        ("weights/history", {"days": 367}, "query.days"),
        ("weights/history", {"since": "x"}, "query.since"),
        ("weights/sessions", {"since": "2026-03-02", "until": "2026-03-01"}, "query.until: 2026-03-01"),
    ],
)
async def test_a_mistake_is_named(
    api: httpx.AsyncClient, shared_lab: Lab, path: str, query: dict[str, Any], says: str
) -> None:
    name = "all-together"
    await LearningConfigVersions(shared_lab.settings, shared_lab.database, SPACE).put(
        name, LearningConfig(context_features=())
    )
    error = assert_error(await api.get(f"/v1/retrievers/{name}/{path}", params=query), 422, "ValidationError")
    assert error["message"].startswith(says)


@pytest.mark.parametrize(
    ("path", "query", "says"),
    [
        ("performance", {"start_date": "2026-03-02", "end_date": "2026-03-01"}, "query.end_date: 2026-03-01"),
        ("performance", {"group_by": "month"}, "query.group_by"),
        ("performance", {"start_date": "x"}, "query.start_date"),
        ("signals", {"limit": 1_001}, "query.limit"),
        ("signals", {"hours": 0}, "query.hours"),
        ("signals", {"since": "x"}, "query.since"),
    ],
)
async def test_a_mistake_in_analytics_is_named(
    api: httpx.AsyncClient, path: str, query: dict[str, Any], says: str
) -> None:
    error = assert_error(await api.get(f"/v1/analytics/retrievers/r/{path}", params=query), 422, "ValidationError")
    assert error["message"].startswith(says)


async def test_too_many_periods_are_refused(shared_lab: Lab) -> None:
    name = retriever()
    await loaded(
        shared_lab,
        SPACE,
        *(each for hour in range(3) for each in search(name, DAY + timedelta(hours=hour), clicked=False)),
    )
    settings = with_key(shared_lab.settings, api_namespaces=(SPACE,), report_rows=2)
    async with api_of(settings, "reader") as api:
        query = {"start_date": "2026-03-01", "end_date": "2026-03-20", "group_by": "hour"}
        answer = await api.get(f"/v1/analytics/retrievers/{name}/performance", params=query)
    error = assert_error(answer, 422, "ValidationError")
    assert error["message"].startswith("query.start_date: the range has more than 2 periods")


async def record(lab: Lab, name: str, at: datetime, number: int, **fields: Any) -> None:
    """Store a signal as a decision is recorded."""
    row = {
        "namespace": SPACE,
        "retriever_id": name,
        "signal_type": "learned_weights",
        "timestamp": iso_ms(at).removesuffix("Z"),
        "signal_id": f"s{number}",
        "execution_id": f"run-{number}",
        "signal_data": json.dumps({"weights": {"text": 0.5}, "number": number}),
        "metadata": "",
        **fields,
    }
    await lab.database.insert_row("signals", row, f"{name}-{number}")


async def test_signals_are_listed_newest_first(api: httpx.AsyncClient, shared_lab: Lab) -> None:
    name, now = retriever(), datetime.now(UTC)
    for number, hours in enumerate((30, 2, 1)):
        await record(shared_lab, name, now - timedelta(hours=hours), number)
    await record(shared_lab, name, now, 3, signal_type="other", execution_id="", metadata='{"a": 1}')
    url = f"/v1/analytics/retrievers/{name}/signals"
    found = (await api.get(url)).json()
    assert [each["signal_data"]["number"] for each in found] == [3, 2, 1]
    assert found[0] == {
        "timestamp": iso_ms(now),
        "execution_id": "",
        "signal_type": "other",
        "signal_data": {"weights": {"text": 0.5}, "number": 3},
        "metadata": {"a": 1},
    }
    chosen: dict[str, Any] = {"signal_type": "learned_weights", "hours": 48, "limit": 2}
    assert [each["signal_data"]["number"] for each in (await api.get(url, params=chosen)).json()] == [2, 1]
    assert len((await api.get(url, params={"hours": 48})).json()) == 4
    elsewhere = await api.get(url, headers={"X-Namespace": "shop"})
    assert elsewhere.json() == []


async def test_the_published_client_reads_signals_and_performance(shared_lab: Lab) -> None:
    name, now = retriever(), datetime.now(UTC)
    await record(shared_lab, name, now, 1)
    await loaded(shared_lab, SPACE, *search(name, now - timedelta(hours=1), clicked=True))
    async with served(with_key(shared_lab.settings, api_namespaces=(SPACE,)), "reader") as host:
        configuration = mixpeek.Configuration(host=host, access_token=KEY, api_key={"NamespaceHeader": SPACE})
        client = mixpeek.AnalyticsRetrieversApi(mixpeek.ApiClient(configuration))
        signals = await asyncio.to_thread(
            client.get_retriever_signals_analytics, name, signal_type="learned_weights", limit=10, hours=24
        )
        performance = await asyncio.to_thread(
            client.get_retriever_performance_analytics,
            name,
            start_date=now - timedelta(days=1),
            end_date=now + timedelta(hours=1),
            group_by="hour",
        )
        default = await asyncio.to_thread(client.get_retriever_performance_analytics, name)
    (signal,) = signals
    assert (signal.execution_id, signal.signal_type, signal.metadata) == ("run-1", "learned_weights", None)
    assert signal.signal_data["weights"] == {"text": 0.5}
    assert abs(signal.timestamp - now) < timedelta(milliseconds=1)
    assert (performance.retriever_id, len(performance.metrics)) == (name, 1)
    assert performance.metrics[0]["ctr"] == 1
    assert performance.time_range.end - performance.time_range.start == timedelta(hours=25)
    assert default.summary is not None
    assert default.summary["total_executions"] == 1


def test_days_at_a_bound_are_consecutive_and_end_today() -> None:
    """Means are first 0.01, 0.25, 0.25 and 0.99, and then 0.01, 0.77, 0.25 and 0.25."""
    config = LearningConfig(min_weight=0.1, max_weight=0.5, decay_factor=1)
    today = 20_000
    low = counts_of({today - 5: (100, 0)}, "low")
    rising = counts_of({today - 5: (300, 100), today - 1: (0, 900)}, "rising")
    middle = counts_of({today - 5: (300, 100)}, "middle")
    fallen = counts_of({today - 5: (0, 100), today - 1: (300, 0)}, "fallen")
    sums = day_sums(low + rising + middle + fallen, config.rewards.in_micros())
    found = days_at_bound(weight_days(sums, config, today - 13, today), config, today)
    assert found == {"low": 6, "rising": 2}
    assert days_at_bound(weight_days(sums, config, today - 13, today - 1), config, today) == {}
    assert days_at_bound([], config, today) == {}


@pytest.mark.parametrize("features", [["only"], ["rare", "rarer"]])
def test_a_single_feature_and_rare_clicks_are_not_at_a_bound(features: list[str]) -> None:
    config, today = LearningConfig(), 20_000
    clicks = {"only": 0, "rare": 20, "rarer": 10}
    counts = [each for name in features for each in counts_of({today: (10_000, clicks[name])}, name)]
    sums = day_sums(counts, config.rewards.in_micros())
    assert days_at_bound(weight_days(sums, config, today, today), config, today) == {}


async def test_the_work_of_a_history_is_bounded(
    api: httpx.AsyncClient, shared_lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = retriever()
    await LearningConfigVersions(shared_lab.settings, shared_lab.database, SPACE).put(name, LearningConfig())
    await publish(shared_lab, name, "global", "", counts_of({today_utc(): (1, 0), today_utc() - 1: (1, 0)}))
    monkeypatch.setattr(history, "MAX_TERMS", 59)
    url = f"/v1/retrievers/{name}/weights/history"
    error = assert_error(await api.get(url, params={"days": 30}), 422, "ValidationError", "refused")
    assert error["message"] == "2 counts by feature and day are too many for 30 days: choose fewer days"
    assert (await api.get(url, params={"days": 29})).status_code == 200
