"""Records read from whole batches equal those of the client, for any content and any first offset."""

from collections.abc import Sequence
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from hypothesis import given
from hypothesis import strategies as st

from consumers.records import PlainRecord, Records
from runtime import kafka, whole_batches
from runtime.metrics import WHOLE_BATCHES
from runtime.whole_batches import WholeBatch
from tests.lab import Lab
from tests.validating import all_records

some_bytes = st.none() | st.binary(max_size=200)
headers = st.lists(st.tuples(st.text(max_size=5), some_bytes), max_size=3)
record = st.tuples(st.integers(0, 2**40), some_bytes, some_bytes, headers)
CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}


def plain(records: Records) -> list[PlainRecord]:
    return list(map(records.at, range(len(records))))


def batch_of(records: Sequence[tuple[int, bytes | None, bytes | None, Any]], codec: int) -> WholeBatch:
    builder = DefaultRecordBatchBuilder(2, codec, 0, -1, -1, 0, 1 << 20)
    for offset, (timestamp, key, value, named) in enumerate(records):
        builder.append(offset, timestamp, key, value, named)
    raw: Any = builder.build()
    return WholeBatch(memoryview(bytes(raw)), 0, len(records))


@given(st.lists(st.lists(record, min_size=1, max_size=5), min_size=1, max_size=3), st.sampled_from(sorted(CODECS)))
def test_written_records_are_read_back(batches: list[list[tuple[int, Any, Any, Any]]], codec: str) -> None:
    read = all_records({0: [batch_of(records, CODECS[codec]) for records in batches]})
    assert plain(read) == [
        PlainRecord(offset, timestamp, key, value, tuple(named))
        for records in batches
        for offset, (timestamp, key, value, named) in enumerate(records)
    ]
    sizes = [len(key or b"") + len(value or b"") for records in batches for _, key, value, _ in records]
    assert read.nbytes >= sum(sizes)


async def read_all(client: AIOKafkaConsumer, place: TopicPartition, begin: int, count: int) -> Records:
    """Records from an offset on, through either path of the client."""
    client.seek(place, begin)
    parts: list[Records] = []
    while sum(map(len, parts)) < count:
        items: Any = (await client.getmany(place, timeout_ms=5_000, max_records=2)).get(place, [])
        parts += [all_records({0: items})] if items else []
    return Records.joined(parts)


async def fill(lab: Lab) -> int:
    """A partition with batches of several records, an aborted and a committed transaction, and unusual records."""
    place = {"topic": lab.settings.topic, "partition": 0}
    async with AIOKafkaProducerOf(lab, compression_type="lz4", linger_ms=50) as producer:
        sent = [await producer.send(value=b"%d" % number * 50, key=b"k", **place) for number in range(30)]
        await producer.flush()
    for keep in (False, True):
        async with AIOKafkaProducerOf(lab, transactional_id=f"{lab.settings.topic}{keep}") as producer:
            await producer.begin_transaction()
            await producer.send_and_wait(value=b"kept" if keep else b"given up", **place)
            await (producer.commit_transaction() if keep else producer.abort_transaction())
    await lab.put(None, partition=0, headers=[("a", b"1"), ("a", b"")])
    return len(sent) + 2


def AIOKafkaProducerOf(lab: Lab, **options: Any) -> AIOKafkaProducer:  # noqa: N802
    return AIOKafkaProducer(bootstrap_servers=lab.settings.kafka, **options)


@pytest.mark.parametrize("begin", [0, 17])
async def test_whole_batches_contain_the_records_of_the_client(
    lab: Lab, begin: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading may begin within a batch, and may be split into pieces."""
    count = await fill(lab) - begin
    place = TopicPartition(lab.settings.topic, 0)
    async with kafka.consumer(lab.settings, instance=None) as client:
        client.assign([place])
        client.seek(place, begin)
        items: Any = (await client.getmany(place, timeout_ms=5_000))[place]
        assert isinstance(items[0], WholeBatch), "the faster way is not taken any more: look at the new version"
        whole = await read_all(client, place, begin, count)
    async with kafka.record_reader(lab.settings) as client:
        client.assign([place])
        assert plain(whole) == plain(await read_all(client, place, begin, count))
    values = [each.value for each in plain(whole)]
    assert len(values) == count
    assert b"kept" in values
    assert b"given up" not in values


async def test_another_client_version_is_read_through_its_public_api(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Records are read one by one and stored; one log line states the cost, and a gauge shows the state."""
    monkeypatch.setattr(whole_batches, "_warned_of", set())
    await lab.put(b'{"feature_id":"f","interaction_type":["view"],"position":0}', partition=0)
    for name in ("MemoryRecords", "PartitionRecords"):
        public = getattr(whole_batches, name, None) or whole_batches._PartitionRecords.__base__
        monkeypatch.setattr(whole_batches._private, name, public)
    monkeypatch.setattr(whole_batches, "WRITTEN_FOR", "9.")
    place = TopicPartition(lab.settings.topic, 0)
    async with kafka.consumer(lab.settings, instance=None) as client:
        client.assign([place])
        client.seek(place, 0)
        items: Any = (await client.getmany(place, timeout_ms=5_000))[place]
        assert not isinstance(items[0], WholeBatch)
        assert len(all_records({0: items})) == 1
    assert (await lab.drain()).stored == 1
    assert WHOLE_BATCHES._value.get() == 0
    warned = [record.getMessage() for record in caplog.records if "whole record batches" in record.getMessage()]
    assert len(warned) == 1, "once, however many clients there are"
    assert "TALLY_BATCH_UNCOMPRESSED_BYTES" in warned[0]
    monkeypatch.undo()
    whole_batches.install()
    assert WHOLE_BATCHES._value.get() == 1
