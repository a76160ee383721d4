"""The writer of the topic: rounds, batches and errors, each of one partition or one record."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import DuplicateSequenceNumber
from aiokafka.partitioner import murmur2
from aiokafka.producer import sender
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.default_records import DefaultRecordBatch
from hypothesis import given
from hypothesis import strategies as st

from producers import batches
from producers.deliveries import OutgoingRecord, Placed, RecordMetadata
from producers.partitions import key_hash, partition_of
from producers.producer import NotAccepted, Producer
from producers.topic import TopicWriter
from runtime.errors import RecordRefused, TallyError, Unavailable
from schemas.identity import mint_id
from schemas.wire import encode_headers
from tests.lab import Lab, click, execution_on, reading

TIMEOUT_MS = 10_000


@pytest.fixture
async def writer(lab: Lab) -> AsyncIterator[TopicWriter]:
    """A writer of this test's topic."""
    async with TopicWriter(lab.settings, TIMEOUT_MS) as found:
        yield found


def record_on(partition: int, value: bytes = b"{}", name: str = "e") -> OutgoingRecord:
    """A record of a partition."""
    key = f"default:{execution_on(partition, name)}".encode()
    return OutgoingRecord(mint_id(), key, value, encode_headers("default"))


async def put(writer: TopicWriter, record: OutgoingRecord) -> RecordMetadata:
    """Put one record on the topic. Raises its error."""
    (result,) = await writer.put_all([record])
    if isinstance(result, TallyError):
        raise result
    return result


def client_of(writer: TopicWriter) -> Any:
    """The client of a writer."""
    return writer._client


def is_on_its_way(found: Placed | TallyError) -> Placed:
    """A record that was packed."""
    assert isinstance(found, Placed)
    return found


async def test_simultaneous_records_share_a_batch_of_their_partition(writer: TopicWriter) -> None:
    sent = await asyncio.gather(*(writer.send([record_on(number % 2)]) for number in range(100)))
    placed = [is_on_its_way(each) for (each,) in sent]
    assert len({id(each.delivery) for each in placed}) == 2
    await asyncio.wait({each.delivery.outcome for each in placed})
    results = [each.result() for each in placed]
    assert all(isinstance(each, RecordMetadata) for each in results)
    for partition in (0, 1):
        offsets = [each.offset for each in results if isinstance(each, RecordMetadata) and each.partition == partition]
        assert offsets == list(range(50)), "in the order in which they were sent"


async def test_a_partition_that_takes_nothing_delays_no_other(lab: Lab) -> None:
    """Records of the partition fail at their deadline; those that wait for an earlier batch are never sent."""
    async with TopicWriter(lab.settings, 4_000) as writer:
        await put(writer, record_on(0))
        muted = client_of(writer)._sender._muted_partitions
        muted.add(TopicPartition(lab.settings.topic, 0))
        stuck = [asyncio.create_task(put(writer, record_on(0, b"first")))]
        await put(writer, record_on(1))
        stuck += [asyncio.create_task(put(writer, record_on(0, b"second")))]
        for number in range(5):
            await put(writer, record_on(1 + number % 3))
        assert not any(task.done() for task in stuck), "no round waited for their end"
        for task in stuck:
            with pytest.raises(Unavailable, match="did not acknowledge within 4000 ms"):
                await task
        muted.clear()
        await put(writer, record_on(1))  # the client looks for batches again
        await put(writer, record_on(0, b"third"))
    async with reading(lab.settings, lab.settings.topic) as records:
        assert [each.value for each in records if each.partition == 0] == [b"{}", b"first", b"third"]


async def test_a_record_that_the_broker_refuses_sinks_no_other(lab: Lab) -> None:
    """The broker's limit is lower than the setting: it refuses the batch of the large record, and only that."""
    noise = random.Random(1).randbytes(3 * 1024 * 1024)
    generous = lab.settings.model_copy(update={"max_record_bytes": 16 * 1024 * 1024})
    async with TopicWriter(generous, TIMEOUT_MS) as writer:
        found = await writer.put_all([record_on(0), record_on(0, noise), record_on(0), record_on(1)])
        assert [type(each).__name__ for each in found] == [
            "RecordMetadata", "RecordRefused", "RecordMetadata", "RecordMetadata"
        ]  # fmt: skip
        assert isinstance(await put(writer, record_on(0)), RecordMetadata)


async def test_a_record_larger_than_the_setting_is_refused_unsent(lab: Lab, writer: TopicWriter) -> None:
    large = record_on(0, b"x" * lab.settings.max_record_bytes)
    found = await writer.put_all([record_on(0), large, record_on(0)])
    assert [isinstance(each, RecordRefused) for each in found] == [False, True, False]


async def test_a_batch_that_the_broker_knows_already_is_accepted_without_an_offset(
    lab: Lab, writer: TopicWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker remembers five batches of a producer; of an older one that is repeated it gives no offset."""
    real = sender.SendProduceReqHandler.handle_response

    def handle(self: Any, response: Any) -> None:
        response.topics = [
            (topic, [(part, DuplicateSequenceNumber.errno, -1, -1, *rest) for part, _, _, _, *rest in parts])
            for topic, parts in response.topics
        ]
        real(self, response)  # type: ignore[no-untyped-call]

    monkeypatch.setattr(sender.SendProduceReqHandler, "handle_response", handle)
    found = await put(writer, record_on(2))
    assert (found.partition, found.offset) == (2, None)
    assert abs(found.append_ms - int(mint_id()[4:16], 16)) < 60_000
    async with Producer(lab.settings) as producer:
        assert (await producer.emit(click())).offset is None


async def test_closing_waits_for_records_that_are_not_sent_yet(lab: Lab) -> None:
    async with TopicWriter(lab.settings, TIMEOUT_MS) as writer:
        placed = await writer.send([record_on(0) for _ in range(5_000)])
        assert not is_on_its_way(placed[-1]).delivery.outcome.done()
    assert all(isinstance(is_on_its_way(each).result(), RecordMetadata) for each in placed)


async def test_an_unknown_version_of_the_client_sends_batches_its_public_way(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(batches, "__version__", "0.99.0")
    batches.is_known.cache_clear()
    try:
        async with Producer(lab.settings) as producer:
            results = [each async for each in producer.emit_many(click(f"d{number}") for number in range(1_000))]
        assert not [each for each in results if isinstance(each, NotAccepted)]
        assert (await lab.drain()).stored == 1_000
        assert "aiokafka 0.99.0 is unknown" in caplog.text
    finally:
        batches.is_known.cache_clear()


@given(st.binary(max_size=80))
def test_the_hash_of_a_key_is_that_of_the_kafka_client(key: bytes) -> None:
    assert key_hash(key) == murmur2(key) & 0x7FFFFFFF
    assert partition_of(key, 12) == key_hash(key) % 12


texts = st.binary(max_size=200) | st.integers(0, 5_000).map(lambda size: b"ab" * size)


@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=20))
def test_a_compressed_batch_holds_the_same_records(records: Sequence[tuple[bytes, bytes]]) -> None:
    """With a valid checksum, by the client's own reader, whether or not compressing it saves anything."""
    plain = BatchBuilder(1 << 20, 0)
    for key, value in records:
        plain.append(timestamp=1, key=key, value=value, headers=encode_headers("ü"))
    raw = bytes(plain._build())
    compressed = batches.compress(raw)
    assert len(compressed) <= len(raw)
    found: Any = DefaultRecordBatch(compressed)
    assert found.validate_crc()
    assert [(each.key, each.value, each.headers) for each in found] == [
        (key, value, [(name, content) for name, content in encode_headers("ü")]) for key, value in records
    ]
