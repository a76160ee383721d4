"""State of the pipeline: offsets, rates, workers that join and leave, and what is not known any more."""

import asyncio
import time
from datetime import datetime
from typing import Any

import httpx
import pytest

from consumers.worker import Worker
from readers import pipeline_routes, progress
from readers.flow_rates import FlowRates
from readers.group_workers import LEFT_FOR_MS, MAX_LEFT, GroupWorkers
from readers.incidents import MAX_ENDED, Incident, Incidents
from readers.pipeline import STORE_PROBLEMS, describe_pipeline
from readers.progress import ConsumerProgress
from runtime.http.readiness import ReadinessState
from runtime.kafka_groups import GroupMember
from tests.http_lab import api_of, assert_error, consuming, with_key
from tests.lab import Lab, click
from tests.waiting import eventually_async

READY = ReadinessState(True, {"clickhouse": "ok"}, [])


async def until(api: httpx.AsyncClient, condition: Any) -> Any:
    """Return the pipeline once a condition holds."""
    found: dict[str, Any] = {}

    async def holds() -> bool:
        answer = await api.get("/v1/pipeline")
        assert answer.status_code == 200, answer.text
        found.update(answer.json())
        return bool(condition(found))

    await eventually_async(holds)
    return found


async def test_workers_join_settle_and_leave(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "WORKERS_EVERY_S", 0.1)
    settings = with_key(lab.settings)
    async with api_of(settings, "reader") as api:
        await lab.emit(*[click(f"doc-{number}", f"exec-{number}") for number in range(20)])
        waiting = ["no worker reads the topic: 20 records wait"]  # once the new group has a coordinator
        found = await until(api, lambda now: now["problems"] == waiting)
        assert (found["topic"], found["dead_letter_topic"]) == (settings.topic, f"{settings.topic}.dead-letters")
        assert found["lag"] == 20
        assert [each["partition"] for each in found["partitions"]] == [0, 1, 2, 3]
        assert (found["workers"], found["stores"]["clickhouse"]) == ([], "ok")

        static, dynamic = (Worker(settings, instance=name, until_caught_up=False) for name in ("shelf-1", None))
        tasks = [asyncio.create_task(each.run()) for each in (static, dynamic)]
        found = await until(api, lambda now: now["lag"] == 0 and all(each["worker"] for each in now["partitions"]))
        first, second = sorted(found["workers"], key=lambda worker: str(worker["name"]))
        assert first["name"] == "shelf-1"
        assert second["name"].startswith("tally-worker-")
        assert sorted(first["partitions"] + second["partitions"]) == [0, 1, 2, 3]
        assert {first["state"], second["state"]} == {"active"}
        owners = {each["partition"]: each["worker"] for each in found["partitions"]}
        assert all(owners[number] == worker["name"] for worker in (first, second) for number in worker["partitions"])
        found = await until(api, lambda now: now["lag_ms"] == 0 and now["settled_per_s"]["60s"])
        assert found["appended_per_s"].keys() == {"10s", "60s"}
        assert sum(each["end_offset"] for each in found["partitions"]) == 20

        dynamic.stop()
        await tasks[1]
        found = await until(api, lambda now: any(each["state"] == "left" for each in now["workers"]))
        (left,) = (each for each in found["workers"] if each["state"] == "left")
        assert (left["name"], left["partitions"]) == (second["name"], [])
        assert datetime.fromisoformat(left["since"]) > datetime.fromisoformat(second["since"])
        static.stop()
        await tasks[0]


async def test_a_stuck_partition_is_named(lab: Lab) -> None:
    settings = with_key(lab.settings, stuck_ms=1_000)
    async with api_of(settings, "reader") as api:
        await lab.emit(click())
        found = await until(api, lambda now: any(each["stuck_ms"] for each in now["partitions"]))
        (stuck,) = (each for each in found["partitions"] if each["lag"])
        assert (stuck["stuck_offset"], stuck["worker"]) == (0, None)
        assert stuck["stuck_ms"] >= 1_000
        await until(api, lambda now: any("stuck at offset 0" in each for each in now["problems"]))


async def test_a_reader_without_kafka_names_the_setting(lab: Lab) -> None:
    async with api_of(with_key(lab.settings, kafka=""), "reader") as api:
        error = assert_error(await api.get("/v1/pipeline"), 503, "ServiceUnavailableError")
        assert "TALLY_KAFKA" in error["message"]


def test_an_old_observation_says_so(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    observed = ConsumerProgress(lab.settings)
    before = describe_pipeline(lab.settings, observed, READY, Incidents())
    assert (before["as_of"], before["lag"], before["lag_ms"]) == (None, None, None)
    assert before["problems"] == ["the progress of the workers has not been observed yet"]
    observed.workers.note(1_000, [GroupMember("w", "h", (0,))])
    observed.rates.note(time.monotonic() - 5, {0: 0}, {0: 0})
    observed.note(1_000, {0: 10}, {0: 10})
    observed.note(5_000, {0: 12}, {0: 10})
    fresh = describe_pipeline(lab.settings, observed, READY, Incidents())
    assert (fresh["problems"], fresh["appended_per_s"]["10s"] > 0) == ([], True)
    monkeypatch.setattr(progress, "MAX_AGE_S", -1.0)
    old = describe_pipeline(lab.settings, observed, READY, Incidents())
    assert (old["as_of"], old["lag"], old["lag_ms"]) == ("1970-01-01T00:00:05.000Z", 2, 4_000)
    assert old["appended_per_s"] == old["settled_per_s"] == {"10s": None, "60s": None}
    assert old["problems"][0].startswith("Kafka did not answer: offsets and workers are those of ")


def test_missing_dependencies_are_problems(lab: Lab) -> None:
    observed = ConsumerProgress(lab.settings)
    observed.note(1_000, {0: 1, 1: 0}, {})
    ready = ReadinessState(False, {"clickhouse": "away", "redis": "missing", "progress": "missing"}, ["a remark"])
    assert describe_pipeline(lab.settings, observed, ready, Incidents())["problems"] == [
        STORE_PROBLEMS["clickhouse"],
        STORE_PROBLEMS["redis"],
        "a remark",
        "Kafka did not say which workers are members of the consumer group",
    ]
    observed.workers.note(1_000, [GroupMember("w", "h", (0,))])
    assert describe_pipeline(lab.settings, observed, READY, Incidents())["problems"] == [
        "without a worker: partition 1"
    ]


def test_an_incident_lasts_from_its_first_observation_to_the_first_without_it() -> None:
    times = iter(range(1_000, 1_000_000, 1_000))
    incidents = Incidents(lambda: next(times))
    incidents.note({"clickhouse": "away"})
    incidents.note({"clickhouse": "still away", "workers": "none"})
    incidents.note({"workers": "none"})
    assert incidents.latest() == [
        Incident("workers", "none", 2_000),
        Incident("clickhouse", "still away", 1_000, 3_000),
    ]
    for number in range(2 * MAX_ENDED):
        incidents.note({str(number): "problem"})
    assert len(incidents.latest()) == 1 + MAX_ENDED


async def test_an_incident_is_known_that_nobody_has_looked_at(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline_routes, "OBSERVE_EVERY_S", 0.05)
    settings = with_key(lab.settings)
    async with api_of(settings, "reader") as api:
        await lab.emit(click())
        await until(api, lambda now: any("no worker reads" in each["problem"] for each in now["incidents"]))
        async with consuming(settings):
            found = await until(api, lambda now: any(each["until"] for each in now["incidents"]))
        ended = [each for each in found["incidents"] if each["until"]]
        assert all(each["since"] < each["until"] for each in ended)


def test_rates_are_over_the_last_seconds() -> None:
    rates = FlowRates()
    assert rates.over(10) is None
    for second in range(200):
        rates.note(second, {0: 100 * second, 1: second}, {0: 50 * second})
    rates.note(200, {0: 100 * 199 + 1_000, 1: 199}, {0: 50 * 199})
    assert rates.over(1) == (1_000, 0)
    assert rates.over(10) == pytest.approx(((9 * 101 + 1_000) / 10, 45))
    assert rates.over(60) == pytest.approx(((59 * 101 + 1_000) / 60, 50 * 59 / 60))
    rates.note(201, {0: 0}, {})
    assert rates.over(10) == (0, 0), "the topic was deleted and created again"


def test_workers_that_have_left_are_listed_for_an_hour_and_bounded() -> None:
    workers = GroupWorkers()
    workers.note(0, [GroupMember(f"w{number}", "h", (number,)) for number in range(2 * MAX_LEFT)])
    workers.note(1_000, [GroupMember("w0", "h", (0, 1))])
    assert [(each.name, each.since_ms) for each in workers.active] == [("w0", 0)]
    assert len(workers.left) == MAX_LEFT
    workers.note(2_000, [])
    assert (workers.left[0].name, workers.left[0].since_ms) == ("w0", 2_000)
    workers.note(1_000 + LEFT_FOR_MS, [])
    assert [each.name for each in workers.left] == ["w0"]
    workers.note(1_000 + LEFT_FOR_MS, [GroupMember("w0", "h", ())])
    assert list(workers.left) == []
