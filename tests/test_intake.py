"""Batches: small while the worker keeps up, as large as may be while it does not."""

import asyncio

import pytest
from aiokafka import TopicPartition

from consumers.intake import Intake
from consumers.records import DEFAULT_LIMITS
from runtime import kafka
from tests.lab import Lab, click


async def test_records_at_the_broker_fill_a_batch_past_its_maximum_delay(lab: Lab) -> None:
    """One fetch returns 13 of these records; the others exist, too, so the batch waits for them."""
    for _ in range(50):
        await lab.put(b"x" * 300_000, partition=0)
    settings = lab.settings.model_copy(update={"batch_rows": 20, "batch_age_ms": 1})
    async with kafka.consumer(settings, instance=None) as consumer:
        intake = Intake(consumer, settings)
        consumer.subscribe([settings.topic])
        sizes: list[int] = []
        while sum(sizes) < 50:
            await intake.fill(asyncio.Event())
            sizes += [len(part.records) for part in intake.take().slices]
    assert sizes == [20, 20, 10]


async def test_nothing_is_read_while_a_full_batch_is_buffered(lab: Lab) -> None:
    """One Kafka batch makes five batches of a worker: reading ahead for each would grow memory without bound."""
    place = TopicPartition(lab.settings.topic, 0)
    async with kafka.producer(lab.settings) as producer:
        for _ in range(6):
            builder = producer.create_batch()
            for _ in range(100):
                builder.append(key=None, value=b"{}", timestamp=None)
            await (await producer.send_batch(builder, place.topic, partition=0))
    settings = lab.settings.model_copy(update={"batch_rows": 20, "batch_age_ms": 1})
    async with kafka.consumer(settings, instance=None) as consumer:
        intake = Intake(consumer, settings)
        consumer.subscribe([settings.topic])
        taken = 0
        while taken < 600:
            await intake.fill(asyncio.Event())
            assert not taken or await consumer.position(place) - taken <= 120
            taken += len(intake.take())


async def test_records_beyond_a_read_limit_are_read_next(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order and once, although the client has handed out all of it already."""
    partitions = lab.settings.partitions
    async with kafka.producer(lab.settings) as producer:
        for number in range(3 * partitions):
            builder = producer.create_batch()
            for _ in range(50):
                builder.append(key=None, value=b"{}", timestamp=None)
            await (await producer.send_batch(builder, lab.settings.topic, partition=number % partitions))
    small = DEFAULT_LIMITS._replace(rows=7)
    monkeypatch.setattr("consumers.intake.event_limits", lambda _settings: small)
    settings = lab.settings.model_copy(update={"batch_rows": 20, "batch_age_ms": 1})
    read: dict[int, list[int]] = {number: [] for number in range(partitions)}
    async with kafka.consumer(settings, instance=None) as consumer:
        intake = Intake(consumer, settings)
        consumer.subscribe([settings.topic])
        while sum(map(len, read.values())) < 150 * partitions:
            await intake.fill(asyncio.Event())
            for part in intake.take().slices:
                read[part.partition] += part.records.offsets.tolist()
    assert read == {number: list(range(150)) for number in range(partitions)}


async def test_buffered_records_of_revoked_partitions_are_dropped(lab: Lab) -> None:
    """The next owner of the partitions reads the records again; the current batch must not hold them any more."""
    await lab.emit(*(click(execution=f"e{number}") for number in range(40)))
    async with kafka.consumer(lab.settings, instance=None) as consumer:
        intake = Intake(consumer, lab.settings)
        consumer.subscribe([lab.settings.topic])
        read: set[int] = set()
        while len(read) < lab.settings.partitions:
            await intake.fill(asyncio.Event())
            batch = intake.take()
            read |= {part.partition for part in batch.slices}
        await consumer.seek_to_beginning()
        await intake.fill(asyncio.Event())
        revoked = [TopicPartition(lab.settings.topic, number) for number in (0, 1)]
        intake.forget(revoked)
        assert {part.partition for part in intake.take().slices} <= {2, 3}
        assert intake.take().slices == ()
