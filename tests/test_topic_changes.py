"""A topic whose settings lose or misdate events is refused at the start, and noticed while a worker runs."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import RecordsToDelete

from consumers.worker import Worker
from producers.producer import Producer
from runtime import kafka, topic_settings, whole_batches
from runtime.errors import Fatal
from runtime.settings import Settings
from tests.http_lab import api_of, with_key
from tests.lab import Lab, as_json, click, execution_on
from tests.test_stuck import NEWER
from tests.waiting import eventually_async

NEVER_MS = 3_600_000
CREATE_TIME = {"message_timestamp_type": "CreateTime"}
WRONG_TOPIC_SETTINGS = [
    pytest.param({"cleanup_policy": "compact"}, "cleanup.policy=compact: set it to delete", id="compact"),
    pytest.param({"cleanup_policy": "compact,delete"}, "cleanup.policy=compact,delete: set it to delete", id="both"),
    pytest.param(CREATE_TIME, "message.timestamp.type=CreateTime: set it to LogAppendTime", id="CreateTime"),
]


async def set_on(lab: Lab, topic: str = "", **settings: str) -> None:
    async with kafka.admin(lab.settings) as admin:
        await topic_settings.change_topic_settings(admin, topic or lab.settings.topic, **settings)


async def committed(lab: Lab) -> dict[int, int]:
    async with kafka.admin(lab.settings) as admin:
        return await kafka.committed_offsets(admin, lab.settings.group, lab.settings.topic)


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator["asyncio.Task[object]"]:
    """A worker that has its partitions."""
    worker = Worker(settings, instance=None, until_caught_up=False)
    working: asyncio.Task[object] = asyncio.create_task(worker.run())

    async def has_partitions() -> bool:
        return working.done() or "no partitions yet" not in worker.why_not_ready()

    try:
        await eventually_async(has_partitions)
        yield working
    finally:
        worker.stop()
        await asyncio.gather(working, return_exceptions=True)


async def test_a_topic_that_appears_while_it_is_requested_is_found(lab: Lab) -> None:
    """In a cluster a broker may learn of a new topic after `tally init` has returned."""
    new = lab.settings.model_copy(update={"topic": f"{lab.settings.topic}-new"})
    async with kafka.admin(new) as admin:
        numbers = asyncio.create_task(kafka.partition_numbers(admin, new.topic))
        settings = asyncio.create_task(topic_settings.check_topic(admin, new.topic))
        await kafka.create_topics(new)
        assert len(await numbers) == new.partitions
        assert (await settings)["cleanup.policy"] == "delete"


async def test_a_missing_topic_is_an_error_that_says_how_to_create_it(lab: Lab) -> None:
    async with kafka.admin(lab.settings) as admin:
        for request in (kafka.partition_numbers, topic_settings.check_topic):
            with pytest.raises(topic_settings.MissingTopic, match=r"nowhere .*does not exist; `tally init` creates it"):
                await request(admin, "nowhere")


async def test_a_new_topic_is_never_compacted(lab: Lab) -> None:
    """The broker's default does not matter."""
    async with kafka.admin(lab.settings) as admin:
        for topic in (lab.settings.topic, lab.settings.dead_letter_topic_name):
            assert (await topic_settings.topic_overrides(admin, topic))["cleanup.policy"] == "delete"


@pytest.mark.parametrize(("change", "message"), WRONG_TOPIC_SETTINGS)
async def test_no_process_starts_on_a_topic_that_loses_events(lab: Lab, change: dict[str, str], message: str) -> None:
    """Neither a worker, nor a producer, nor the collector, nor `tally init`."""
    await set_on(lab, **change)
    with pytest.raises(Fatal, match=message):
        await lab.drain()
    with pytest.raises(Fatal, match=message):
        async with Producer(lab.settings):
            pass
    with pytest.raises(Fatal, match=message):
        async with api_of(with_key(lab.settings), "collector"):
            pass
    with pytest.raises(Fatal, match=message):
        await kafka.create_topics(lab.settings)


async def test_dead_letters_must_not_be_compacted(lab: Lab) -> None:
    """A letter has its record's key: of two with one key the first would go."""
    await set_on(lab, lab.settings.dead_letter_topic_name, cleanup_policy="compact")
    with pytest.raises(Fatal, match=r"dead-letters has cleanup.policy=compact: set it to delete"):
        await lab.drain()


@pytest.mark.parametrize(("change", "message"), WRONG_TOPIC_SETTINGS)
async def test_a_change_under_a_running_worker_stops_it(lab: Lab, change: dict[str, str], message: str) -> None:
    """The error names setting and value; rows stored before are committed."""
    (receipt,) = await lab.emit(click())
    async with running(lab.settings.model_copy(update={"topic_check_ms": 100})) as worker:

        async def is_committed() -> bool:
            return (await committed(lab)).get(receipt.partition) == 1

        await eventually_async(is_committed)
        await set_on(lab, **change)
        with pytest.raises(Fatal, match=message):
            await worker
    assert await lab.count("interactions") == 1


@pytest.mark.parametrize("version", [whole_batches.WRITTEN_FOR, "another"])
async def test_a_record_with_a_producer_time_is_fatal(lab: Lab, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    """Even without a check of the topic in between, after a reset of the setting, and with another client version."""
    if version == "another":
        for name in ("MemoryRecords", "PartitionRecords"):
            public = getattr(whole_batches, name, None) or whole_batches._PartitionRecords.__base__
            monkeypatch.setattr(whole_batches._private, name, public)
    monkeypatch.setattr(whole_batches, "WRITTEN_FOR", version)
    await lab.put(as_json(execution=execution_on(1, "before")), partition=1)
    async with running(lab.settings.model_copy(update={"topic_check_ms": NEVER_MS})) as worker:
        await set_on(lab, **CREATE_TIME)
        await lab.put(as_json(execution=execution_on(1, "dated by its producer")), partition=1)
        with pytest.raises(Fatal, match=r"offset 1 of .*/1 has its producer's time"):
            await worker
    await set_on(lab, message_timestamp_type="LogAppendTime")
    await lab.put(as_json(execution=execution_on(1, "after")), partition=1)
    with pytest.raises(Fatal, match=r"offset 1 of .*/1 has its producer's time"):
        await lab.drain()
    assert (await committed(lab)).get(1, 0) <= 1
    assert await lab.rows("SELECT DISTINCT execution_id FROM interactions WHERE execution_id NOT LIKE 'before-%'") == []


async def test_records_that_expire_on_a_held_partition_stop_the_worker(lab: Lab) -> None:
    """Nothing is read there any more, so only the log's start shows it."""
    await lab.put(as_json(), headers=NEWER, partition=0)
    for _ in range(3):
        await lab.put(as_json(), partition=0)
    worker = Worker(lab.settings.model_copy(update={"topic_check_ms": 100}), instance=None, until_caught_up=False)
    working = asyncio.create_task(worker.run())

    async def is_held() -> bool:
        return "newer schema" in worker.why_not_ready()

    try:
        await eventually_async(is_held)
        async with kafka.admin(lab.settings) as admin:
            place = TopicPartition(lab.settings.topic, 0)
            await admin.delete_records({place: RecordsToDelete(before_offset=3)})
        with pytest.raises(Fatal, match="3 offsets expired unread"):
            await working
    finally:
        worker.stop()


async def test_a_retention_shorter_than_the_lag_is_logged(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    """Before anything expires, while there is time to keep the topic longer."""
    for _ in range(3):
        await lab.put(as_json(), headers=NEWER, partition=2)
    await set_on(lab, retention_ms="1")
    with caplog.at_level(logging.ERROR, "tally.worker"):
        async with running(lab.settings.model_copy(update={"topic_check_ms": 100})):

            async def is_logged() -> bool:
                return "/2: 3 unread records are older than retention.ms=1" in caplog.text

            await eventually_async(is_logged)
