"""The contract with private parts of aiokafka: records handed out as they are decoded say what the public ones say."""

import pytest
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from consumers.plain_records import give_plain_records
from runtime import kafka
from runtime.kafka import Record
from tests.lab import Lab


def said(record: Record) -> tuple[object, ...]:
    return record.offset, record.timestamp, record.key, record.value, tuple(record.headers)


async def fetched(client: AIOKafkaConsumer, place: TopicPartition, count: int) -> list[Record]:
    """So many records, each poll but the first after the client has fetched ahead."""
    client.seek(place, 0)
    found: list[Record] = []
    while len(found) < count:
        give_plain_records(client)
        found += (await client.getmany(place, timeout_ms=5_000, max_records=3)).get(place, [])
    return found


async def test_plain_records_say_what_the_public_ones_say(lab: Lab) -> None:
    for number in range(20):
        await lab.put(b"%d" % number, key=b"k", headers=[("a", b"1"), ("b", b"")], partition=0)
    await lab.put(None, partition=0)
    place = TopicPartition(lab.settings.topic, 0)
    async with kafka.offset_reader(lab.settings) as client:
        client.assign([place])
        plain = await fetched(client, place, 21)
        client.seek(place, 0)
        public = (await client.getmany(place, timeout_ms=5_000))[place]
    assert [said(record) for record in plain] == [said(record) for record in public]
    assert not isinstance(plain[-1], ConsumerRecord), "the faster way is not taken any more: look at the new version"


async def test_a_client_with_other_insides_is_left_alone(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    await lab.put(b"1", partition=0)
    place = TopicPartition(lab.settings.topic, 0)
    async with kafka.offset_reader(lab.settings) as client:
        client.assign([place])
        client.seek(place, 0)
        monkeypatch.setattr(client, "_fetcher", object())
        give_plain_records(client)
        monkeypatch.undo()
        assert [record.value for record in (await client.getmany(place, timeout_ms=5_000))[place]] == [b"1"]
