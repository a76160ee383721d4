"""A stuck partition is visible: readiness, `tally status` and metrics name topic, partition and offset."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from consumers.worker import Worker
from readers.overview import read_lag
from readers.stuck_now import find_stuck
from runtime.metrics_server import serve_metrics
from runtime.ports import free_port
from runtime.settings import Settings
from tests.chaos.proxy import proxy_to
from tests.cli_lab import command, environment
from tests.http_lab import api_of, with_key
from tests.lab import Lab, as_json, at_port, execution_on
from tests.monitoring_lab import samples
from tests.test_log_contents import in_a_transaction
from tests.waiting import eventually_async

NEWER = [("tally-schema", b"9")]


@pytest.fixture
def quick(settings: Settings) -> Settings:
    """Settings by which a partition is stuck soon."""
    return with_key(settings, stuck_ms=1_500, topic_check_ms=100, metrics_port=free_port())


@asynccontextmanager
async def working(settings: Settings) -> AsyncIterator[Worker]:
    """A worker in this process, with its operator's port."""
    worker = Worker(settings, instance=None, until_caught_up=False)
    with serve_metrics(settings, worker.why_not_ready):
        running = asyncio.create_task(worker.run())
        try:
            yield worker
        finally:
            worker.stop()
            await running


async def of_partitions(api: httpx.AsyncClient, name: str, settings: Settings) -> dict[int, float]:
    """A metric of this topic's partitions."""
    found = await samples(api, "", name)
    return {int(labels.split()[0]): value for labels, value in found.items() if labels.split()[1:] == [settings.topic]}


def status(settings: Settings) -> tuple[int, Any]:
    """Return the output of `tally status --json`, and its exit code."""
    done = command("status", "--json", env=environment(settings))
    return done.returncode, json.loads(done.stdout)


async def is_named(settings: Settings, api: httpx.AsyncClient, partition: int, offset: int) -> None:
    """Return once everything that looks from outside names the place."""
    place = f"{settings.topic}/{partition} has been stuck at offset {offset}"

    async def ready_names_it() -> bool:
        answer = (await api.get("/v1/ready")).json()
        return bool(answer["dependencies"]["workers"] == "degraded" and place in answer["problems"][0])

    await eventually_async(ready_names_it)
    answer = await api.get("/v1/ready")
    assert answer.status_code == 200, "a collector must not leave a load balancer for a worker"
    assert (await of_partitions(api, "tally_partition_stuck_offset", settings))[partition] == offset
    seconds = await of_partitions(api, "tally_partition_stuck_seconds", settings)
    assert seconds[partition] >= settings.stuck_ms / 1000
    found = await find_stuck(settings, await read_lag(settings))
    assert (partition, offset) in [(each.partition, each.offset) for each in found]


async def is_clear(settings: Settings, api: httpx.AsyncClient) -> None:
    """Return once nothing is stuck any more, wherever one looks."""

    async def ready_is_ok() -> bool:
        answer = (await api.get("/v1/ready")).json()
        return bool(answer["dependencies"]["workers"] == "ok" and answer["problems"] == [])

    await eventually_async(ready_is_ok)
    assert await of_partitions(api, "tally_partition_stuck_offset", settings) == {}
    assert set((await of_partitions(api, "tally_partition_stuck_seconds", settings)).values()) == {0}
    assert await find_stuck(settings, await read_lag(settings)) == []


async def test_a_held_partition_is_named(lab: Lab, quick: Settings) -> None:
    """A record of a newer schema: the worker itself is not ready, and names the record."""
    await lab.put(as_json(execution=execution_on(2, "before")), partition=2)
    await lab.put(as_json(execution="newer"), headers=NEWER, partition=2)
    await lab.put(as_json(execution=execution_on(1, "other")), partition=1)
    async with working(quick), api_of(quick) as api, httpx.AsyncClient() as client:
        await is_named(quick, api, 2, 1)
        port = f"http://127.0.0.1:{quick.metrics_port}"
        answer = await client.get(f"{port}/v1/ready")
        assert answer.status_code == 503
        assert f"{quick.topic}/2 at offset 1; upgrade this worker" in answer.text
        assert (await client.get(f"{port}/v1/health")).status_code == 200
        code, described = await asyncio.to_thread(status, quick)
        assert code == 1
        ((topic, partition, offset, seconds),) = [tuple(each.values()) for each in described["stuck"]]
        assert (topic, partition, offset) == (quick.topic, 2, 1)
        assert seconds >= quick.stuck_ms / 1000
        assert f"{topic}/2 has been stuck at offset 1" in described["problems"][0]
    assert await lab.count("interactions") == 2


async def test_waiting_records_are_named_without_a_worker(lab: Lab, quick: Settings) -> None:
    """Transaction markers and aborted records do not wait; a record does."""
    await lab.put(as_json(execution=execution_on(0, "stored")), partition=0)
    await lab.drain()
    await in_a_transaction(lab, 2, keep=False)
    async with api_of(quick) as api:

        async def nothing_lags() -> bool:
            followed = await of_partitions(api, "tally_partition_stuck_seconds", settings=quick)
            return len(followed) == 4 and not sum((await samples(api, "", "tally_lag_records")).values())

        await eventually_async(nothing_lags)
        await is_clear(quick, api)
        await lab.put(as_json(execution=execution_on(0, "waits")), partition=0)
        await is_named(quick, api, 0, 4)


async def test_a_worker_without_its_store_says_where_it_is_stuck(lab: Lab, quick: Settings) -> None:
    """The worker is not ready while it retries, and ready once the store is back."""
    address = urlsplit(quick.clickhouse.get_secret_value())
    assert address.port
    async with proxy_to(address.port) as proxy:
        through = quick.model_copy(update={"clickhouse": at_port(quick.clickhouse, proxy.port)})
        async with working(through) as worker:

            async def is_ready() -> bool:
                return not worker.why_not_ready()

            async def is_stuck() -> bool:
                return f"{quick.topic}/1 has been stuck at offset 0" in worker.why_not_ready()

            await eventually_async(is_ready)
            proxy.refusing = True
            proxy.cut()
            await lab.put(as_json(execution=execution_on(1, "waits")), partition=1)
            await eventually_async(is_stuck)
            proxy.pass_everything()
            await eventually_async(is_ready)
    assert await lab.count("interactions") == 1
