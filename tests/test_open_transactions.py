"""An open transaction holds its partition, and records after it count as accepted and in flight."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from readers.audit import audit
from readers.overview import read_lag
from runtime import kafka
from runtime.settings import Settings
from tests.http_lab import api_of
from tests.lab import Lab, as_json, click, execution_on
from tests.monitoring_lab import samples
from tests.test_stuck import is_clear, is_named, quick, working
from tests.waiting import eventually_async

__all__ = ["quick"]


@asynccontextmanager
async def open_transaction(lab: Lab) -> AsyncIterator[None]:
    """Open a transaction with one record in partition 0, and abort it at the end."""
    options = {"bootstrap_servers": lab.settings.kafka, "transactional_id": lab.settings.topic}
    async with AIOKafkaProducer(**options) as producer:
        await producer.begin_transaction()
        await producer.send_and_wait(lab.settings.topic, b"{}", partition=0)
        yield
        await producer.abort_transaction()


@pytest.fixture
def hasty(quick: Settings) -> Settings:
    """Settings by which an id without an outcome is soon `unknown`, unless it may be in flight."""
    return quick.model_copy(update={"delivery_timeout_ms": 500, "collector_ack_ms": 500, "clock_skew_ms": 0})


async def test_records_after_an_open_transaction_are_in_flight(lab: Lab, hasty: Settings) -> None:
    async with working(hasty), api_of(hasty) as api:
        async with open_transaction(lab):
            body = {"feature_id": "f", "interaction_type": ["click"], "position": 0}
            answer = await api.post(
                "/v1/retrievers/interactions", json=body | {"execution_id": execution_on(0, "waits")}
            )
            path = f"/v1/retrievers/interactions/{answer.json()['interaction_id']}"
            await is_named(hasty, api, 0, 0)
            assert (await api.get(f"{path}/status")).json()["status"] == "accepted"
            assert (await api.get(path)).json()["error"]["code"] == "in_flight"

            async def lag_is_shown() -> bool:
                """The gauge has values of other tests of this process until it is read again."""
                return sum((await samples(api, "", "tally_lag_records")).values()) == 2

            await eventually_async(lag_is_shown)
            assert sum(each.lag for each in await read_lag(hasty)) == 2
            (account, *_) = [each async for each in audit(hasty, lab.database)]
            assert (account.accepted, account.in_flight, account.balances) == (2, 2, True)

        async def is_stored() -> bool:
            return (await api.get(path)).status_code == 200

        await eventually_async(is_stored)
        await is_clear(hasty, api)


async def test_until_caught_up_waits_for_an_open_transaction(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    ask, asked_when_stored = kafka.end_offsets, 0

    async def end_offsets(*arguments: Any) -> Any:
        nonlocal asked_when_stored
        found = await ask(*arguments)
        asked_when_stored += await lab.count("interactions")
        return found

    monkeypatch.setattr(kafka, "end_offsets", end_offsets)
    await lab.put(as_json(execution=execution_on(0, "before")), partition=0)
    async with open_transaction(lab):
        await lab.put(as_json(execution=execution_on(0, "after")), partition=0)
        draining = asyncio.create_task(lab.drain())

        async def has_been_asked() -> bool:
            return draining.done() or asked_when_stored > 1

        await eventually_async(has_been_asked)
    await draining
    assert await lab.count("interactions") == 2


async def test_the_lag_is_never_negative(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records that are appended and committed while the lag is read do not count as committed before the end."""
    read = kafka.end_offsets

    async def end_offsets(*arguments: Any) -> Any:
        ends = await read(*arguments)
        monkeypatch.undo()
        await lab.emit(*(click(feature_id=f"doc-{number}") for number in range(8)))
        await lab.drain()
        return ends

    await lab.emit(click())
    await lab.drain()
    monkeypatch.setattr(kafka, "end_offsets", end_offsets)
    assert min(each.lag for each in await read_lag(lab.settings)) >= 0
