"""Connections to Kafka, and what a topic must be like before anything is put on it or taken from it."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, Protocol

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaError,
    TopicAlreadyExistsError,
    for_code,
)

from runtime import whole_batches
from runtime.errors import Fatal
from runtime.faults.kafka import kafka_fault
from runtime.kafka_connection import connection_error, connection_options, start_client
from runtime.membership import commit_as_member_only
from runtime.settings import Settings
from runtime.topic_check import (
    CLEANUP_POLICY,
    DELETE,
    LOG_APPEND_TIME,
    REQUIRED_OF_DEAD_LETTERS,
    RETENTION_MS,
    TIMESTAMP_TYPE,
    DescribeConfigsDenied,
    check_topic,
)

log = logging.getLogger("tally.kafka")


class Record(Protocol):
    """A record as it lies on a topic: bytes, or null. Its timestamp is the append time, in milliseconds since 1970."""

    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]: ...


# Far below the broker's own bound, so that a full batch still leaves room for the largest single record.
PRODUCER_BATCH_BYTES = 128 * 1024
LINGER_MS = 5
METADATA_MAX_AGE_MS = 5_000
"""Longest time that a client may use a topic's old number of partitions after an expansion."""
FETCH_BYTES = 16 * 1024 * 1024

# The broker's limits count compressed bytes, this client's own count them before compression: a record that came
# in well compressed is larger here than any limit of its topic, and its letter must still go out.
MAX_DEAD_LETTER_BYTES = 256 * 1024 * 1024

# How long a member may go without polling. While a store is down nothing is polled, and leaving the group would
# only move the same wait to another worker.
MAX_POLL_INTERVAL_MS = 24 * 3600 * 1000


@asynccontextmanager
async def producer(
    settings: Settings, *, letters: bool = False, copies: bool = False
) -> AsyncIterator[AIOKafkaProducer]:
    """A producer whose acknowledgement means: on all in-sync replicas, once. Leaving waits for what is unsent.

    For `copies` of misplaced events it may mean more than once, which deduplication finds: such a client can continue
    after a broker has refused a record for its size, which one that numbers its records cannot.
    """
    client = AIOKafkaProducer(
        **connection_options(settings),
        acks="all",
        enable_idempotence=not copies,
        compression_type="lz4",
        linger_ms=LINGER_MS,
        max_batch_size=PRODUCER_BATCH_BYTES,
        max_request_size=MAX_DEAD_LETTER_BYTES if letters else settings.max_record_bytes,
        request_timeout_ms=settings.delivery_timeout_ms,
        metadata_max_age_ms=METADATA_MAX_AGE_MS,
    )
    await start_client(client, settings)
    try:
        yield client
    finally:
        await _stop_producer(client, settings)


async def _stop_producer(client: AIOKafkaProducer, settings: Settings) -> None:
    """Wait for what is unsent, but not for a broker that stays away."""
    try:
        async with asyncio.timeout(settings.delivery_timeout_ms / 1000):
            await client.stop()
    except TimeoutError:
        log.warning("Kafka (TALLY_KAFKA) did not take what was unsent within %d ms", settings.delivery_timeout_ms)


@asynccontextmanager
async def consumer(settings: Settings, *, instance: str | None) -> AsyncIterator[AIOKafkaConsumer]:
    """A group member that commits only when told to and while it is one, and gives whole batches where it can.

    `instance` makes its membership static.
    """
    whole_batches.install()
    client = AIOKafkaConsumer(
        **connection_options(settings),
        group_id=settings.group,
        group_instance_id=instance,
        key_deserializer=whole_batches.whole,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        metadata_max_age_ms=METADATA_MAX_AGE_MS,
        isolation_level="read_committed",
        session_timeout_ms=settings.session_timeout_ms,
        heartbeat_interval_ms=max(100, settings.session_timeout_ms // 5),
        max_poll_interval_ms=MAX_POLL_INTERVAL_MS,
        rebalance_timeout_ms=settings.stop_timeout_ms,
        max_partition_fetch_bytes=max(4 * 1024 * 1024, settings.max_dead_letter_bytes),
        fetch_max_bytes=FETCH_BYTES,
        fetch_max_wait_ms=100,
    )
    await start_client(client, settings)
    commit_as_member_only(client)
    try:
        yield client
    finally:
        await client.stop()


@asynccontextmanager
async def admin(settings: Settings) -> AsyncIterator[AIOKafkaAdminClient]:
    """A client for topics and groups."""
    client = AIOKafkaAdminClient(**connection_options(settings), request_timeout_ms=settings.connect_timeout_ms)
    await start_client(client, settings)
    try:
        yield client
    finally:
        await client.close()


@asynccontextmanager
async def offset_reader(settings: Settings) -> AsyncIterator[AIOKafkaConsumer]:
    """A client outside any group, to ask for offsets. A log ends for it at the high watermark.

    Readers of committed records see it end where the first open transaction begins, but what others have appended after
    that is accepted, and must not count as settled.
    """
    async with _reader(settings, "read_uncommitted") as client:
        yield client


@asynccontextmanager
async def record_reader(settings: Settings) -> AsyncIterator[AIOKafkaConsumer]:
    """A client outside any group, to read committed records at given offsets (`runtime.log_reader`)."""
    async with _reader(settings, "read_committed") as client:
        yield client


@asynccontextmanager
async def _reader(settings: Settings, isolation_level: str) -> AsyncIterator[AIOKafkaConsumer]:
    whole_batches.install()
    client = AIOKafkaConsumer(
        **connection_options(settings),
        key_deserializer=whole_batches.whole,
        isolation_level=isolation_level,
        auto_offset_reset="none",  # what retention has removed is an error, not a jump to the end
    )
    await start_client(client, settings)
    try:
        yield client
    finally:
        await client.stop()


async def create_topics(settings: Settings) -> None:
    """Create the topic and its dead-letter topic where they are missing, and check the topic that is there."""
    wanted = [
        _new_topic(settings, settings.topic, settings.max_record_bytes, settings.topic_retention_ms),
        _new_topic(
            settings, settings.dead_letter_topic_name, settings.max_dead_letter_bytes, settings.dead_letter_retention_ms
        ),
    ]
    async with admin(settings) as client:
        answer: Any = await client.create_topics(wanted)
        for name, code, message in answer.topic_errors:
            error = for_code(code)
            if code and error is not TopicAlreadyExistsError:
                raise Fatal(f"Kafka refused to create topic {name}: {message or error.__name__}")
        await _wait_for_leaders(client, [topic.name for topic in wanted])
        await check_topics(client, settings)


def _new_topic(settings: Settings, name: str, max_bytes: int, retention_ms: int) -> NewTopic:
    return NewTopic(
        name=name,
        num_partitions=settings.partitions,
        replication_factor=settings.replication,
        topic_configs={
            TIMESTAMP_TYPE: LOG_APPEND_TIME,
            CLEANUP_POLICY: DELETE,
            "max.message.bytes": str(max_bytes),
            RETENTION_MS: str(retention_ms),
            "min.insync.replicas": str(settings.min_insync or max(1, settings.replication - 1)),
        },
    )


async def _wait_for_leaders(client: AIOKafkaAdminClient, names: Iterable[str]) -> None:
    """A created topic answers only once each partition has a leader."""
    async with asyncio.timeout(30):
        while True:
            found = await client.describe_topics(list(names))
            if all(
                topic["error_code"] == 0 and all(part["leader"] >= 0 for part in topic["partitions"]) for topic in found
            ):
                return
            await asyncio.sleep(0.05)


async def partition_numbers(client: AIOKafkaAdminClient, name: str) -> list[int]:
    """A topic's partitions. Raises Fatal when there is no such topic."""
    try:
        (found,) = await client.describe_topics([name])
    except KafkaError as error:
        raise kafka_fault(error, f"asking for topic {name}") from error
    if found["error_code"]:
        why = for_code(found["error_code"]).__name__
        raise Fatal(f"topic {name} (TALLY_TOPIC): {why}; `tally init` creates it")
    return sorted(part["partition"] for part in found["partitions"])


async def require_topic(settings: Settings) -> None:
    """Raise Fatal unless the topic is there and what it must be, as far as a producer may ask."""
    async with admin(settings) as client:
        await partition_numbers(client, settings.topic)
        try:
            await check_topic(client, settings.topic)
        except DescribeConfigsDenied as error:
            log.info("%s; workers check the topic", error)


async def check_topics(client: AIOKafkaAdminClient, settings: Settings) -> dict[str, str]:
    """Return the settings of the topic. Raises Fatal unless it and the dead-letter topic are what they must be."""
    found = await check_topic(client, settings.topic)
    await check_topic(client, settings.dead_letter_topic_name, REQUIRED_OF_DEAD_LETTERS)
    return found


async def end_offsets(client: AIOKafkaConsumer, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
    """The offset after the last record of each partition. Raises Unavailable when no broker answers."""
    try:
        return dict(await client.end_offsets(list(partitions)))
    except KafkaError as error:
        raise kafka_fault(error, "asking for offsets") from error


class LogBounds(NamedTuple):
    """One partition: its first offset, the one after its last record, and the group's committed one if any."""

    start: int
    end: int
    committed: int | None


async def log_bounds(
    client: AIOKafkaConsumer, topic: str, partitions: Iterable[int], *, member: AIOKafkaConsumer | None = None
) -> dict[int, LogBounds]:
    """Ask for partitions' offsets; what is committed only a `member` of the group can be asked.

    Better through a client that reads nothing: a broker answers the requests of a connection one by one, and one that
    waits for records (100 ms) is among a reader's. The log's end is asked for last: while these are asked for, another
    worker may still commit records that were not there a moment ago.

    Raises Unavailable when no broker answers.
    """
    asked = [TopicPartition(topic, number) for number in partitions]
    try:
        starts = await client.beginning_offsets(asked)
        committed = {tp: await member.committed(tp) if member else None for tp in asked}
        ends = await client.end_offsets(asked)
        return {tp.partition: LogBounds(starts[tp], ends[tp], committed[tp]) for tp in asked}
    except KafkaError as error:
        raise kafka_fault(error, "asking for offsets") from error


async def committed_offsets(client: AIOKafkaAdminClient, group: str, topic: str) -> dict[int, int]:
    """Committed offsets of a group by partition; a partition without a commit is left out.

    Raises Unavailable when no broker can tell, as while a fresh cluster still chooses the group's coordinator.
    """
    try:
        found = await client.list_consumer_group_offsets(group)
    except KafkaError as error:
        raise kafka_fault(error, f"asking for the offsets of group {group}") from error
    return {place.partition: each.offset for place, each in found.items() if place.topic == topic and each.offset >= 0}


async def ping(settings: Settings) -> None:
    """Return when a broker answers; raise Unavailable when none does."""
    try:
        async with admin(settings) as client:
            await client.describe_cluster()
    except (KafkaError, KafkaConnectionError) as error:
        raise await connection_error(settings, error) from error
