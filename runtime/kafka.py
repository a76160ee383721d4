"""Kafka clients, and the creation and check of topics."""

import asyncio
import logging
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, NamedTuple, Protocol

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import (
    KafkaError,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
    for_code,
)

from runtime import whole_batches
from runtime.errors import Fatal
from runtime.faults.kafka import kafka_fault
from runtime.kafka_connection import connection_error, connection_options, log_client, running_client, start_client
from runtime.membership import commit_as_member_only
from runtime.settings import Settings
from runtime.sizes import MIB
from runtime.topic_settings import (
    CLEANUP_POLICY,
    DELETE,
    LOG_APPEND_TIME,
    REQUIRED_OF_DEAD_LETTERS,
    RETENTION_MS,
    TIMESTAMP_TYPE,
    DescribeConfigsDenied,
    MissingTopic,
    check_topic,
    once_known,
    until_a_broker_has,
)

log = logging.getLogger("tally.kafka")


class Record(Protocol):
    """Record of a topic: bytes, or null. Its timestamp is the append time, in milliseconds since 1970."""

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


PRODUCER_BATCH_BYTES = 128 * 1024
"""Target size of a record batch before compression. A larger single record is a batch of its own."""
LINGER_MS = 0
"""Records that arrive while a request is in flight share the next one. A wait would only delay lone records."""
METADATA_MAX_AGE_MS = 5_000
"""Longest time that a client uses a topic's old partition count after an expansion."""
FETCH_BYTES = 8 * MIB
"""Bytes of one answer of a broker: several full batches. While it is read, memory holds it up to three times, beside
the answers before that are not taken yet."""
MAX_DEAD_LETTER_BYTES = 256 * MIB
"""The broker's limits count compressed bytes, the client's own limit uncompressed ones. A record may fit
its topic compressed and exceed the client's limit uncompressed; its dead letter must still be sent."""
WORKER_CLIENT_ID = "tally-worker"
"""Client id of workers, with which the names of dynamic group members begin."""
MAX_POLL_INTERVAL_MS = 24 * 3600 * 1000
"""While a store is down nothing is polled; leaving the group would only move the wait to another worker."""


@asynccontextmanager
async def producer(
    settings: Settings, *, dead_letters: bool = False, copies: bool = False
) -> AsyncIterator[AIOKafkaProducer]:
    """Open a producer with acks=all; it is idempotent unless `copies`.

    Closing waits for unsent records. `dead_letters` raises the client's size limit. `copies` of misplaced events turn
    idempotence off: an idempotent client cannot continue after a broker refused a record for its size, and
    deduplication finds the repeats.
    """
    client = AIOKafkaProducer(
        **connection_options(settings),
        acks="all",
        enable_idempotence=not copies,
        compression_type="lz4",
        linger_ms=LINGER_MS,
        max_batch_size=PRODUCER_BATCH_BYTES,
        max_request_size=MAX_DEAD_LETTER_BYTES if dead_letters else settings.max_record_bytes,
        request_timeout_ms=settings.delivery_timeout_ms,
        metadata_max_age_ms=METADATA_MAX_AGE_MS,
    )
    await start_client(client, settings)
    try:
        yield client
    finally:
        try:
            async with asyncio.timeout(settings.delivery_timeout_ms / 1000):
                await client.stop()
        except TimeoutError:
            log.warning(
                "the Kafka producer did not close within %d ms (TALLY_DELIVERY_TIMEOUT_MS); unsent records may be lost",
                settings.delivery_timeout_ms,
            )


@asynccontextmanager
async def consumer(settings: Settings, *, instance: str | None) -> AsyncIterator[AIOKafkaConsumer]:
    """Open a group member that commits only explicitly and as a member, and returns whole batches where possible.

    `instance` is its group.instance.id; None makes its membership dynamic.
    """
    whole_batches.install()
    client = AIOKafkaConsumer(
        **connection_options(settings),
        client_id=WORKER_CLIENT_ID,
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
        max_partition_fetch_bytes=settings.max_dead_letter_bytes,  # any record, and by default a full batch
        fetch_max_bytes=FETCH_BYTES,
        fetch_max_wait_ms=100,
    )
    async with running_client(client, settings):
        commit_as_member_only(client)
        yield client


@asynccontextmanager
async def admin(settings: Settings) -> AsyncIterator[AIOKafkaAdminClient]:
    """Open an admin client for topics and groups."""
    client = AIOKafkaAdminClient(**connection_options(settings), request_timeout_ms=settings.connect_timeout_ms)
    async with running_client(client, settings):
        yield client


def offset_reader(settings: Settings) -> AbstractAsyncContextManager[AIOKafkaConsumer]:
    """Open a client outside any group that reads offsets. For it a log ends at the high watermark.

    For a reader of committed records the log ends at the first open transaction. But records that were appended after
    that are accepted, and must not count as settled.
    """
    return log_client(settings, "read_uncommitted")


def record_reader(settings: Settings) -> AbstractAsyncContextManager[AIOKafkaConsumer]:
    """Open a client outside any group that reads committed records at given offsets (`runtime.log_batches`)."""
    return log_client(settings, "read_committed")


async def create_topics(settings: Settings) -> None:
    """Create the topic and its dead-letter topic if they are missing, and check their settings."""
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


async def _wait_for_leaders(client: AIOKafkaAdminClient, names: Collection[str]) -> None:
    """Wait until each partition of new topics has a leader."""

    async def have_leaders() -> bool:
        return all(map(_has_leaders, await client.describe_topics(list(names))))

    await until_a_broker_has(have_leaders, f"leaders of the topics {', '.join(names)}")


def _has_leaders(topic: dict[str, Any]) -> bool:
    return topic["error_code"] == 0 and all(part["leader"] >= 0 for part in topic["partitions"])


async def partition_numbers(client: AIOKafkaAdminClient, name: str) -> list[int]:
    """Return a topic's partition numbers, sorted. Raises MissingTopic, else as `kafka_fault` says."""
    found = await once_known(lambda: _found_topic(client, name))
    return sorted(part["partition"] for part in found["partitions"])


async def _found_topic(client: AIOKafkaAdminClient, name: str) -> dict[str, Any]:
    try:
        (found,) = await client.describe_topics([name])
    except KafkaError as error:
        raise kafka_fault(error, f"asking for topic {name}") from error
    refusal = for_code(found["error_code"])
    if refusal is UnknownTopicOrPartitionError:
        raise MissingTopic(name)
    if found["error_code"]:
        raise kafka_fault(refusal(), f"asking for topic {name} (TALLY_TOPIC, TALLY_DEAD_LETTER_TOPIC)")
    return dict(found)


async def require_topic(settings: Settings) -> None:
    """Raise Fatal unless the topic exists and has the required settings, as far as a producer may read them."""
    async with admin(settings) as client:
        await partition_numbers(client, settings.topic)
        try:
            await check_topic(client, settings.topic)
        except DescribeConfigsDenied as error:
            log.info("%s; workers check the topic", error)


async def check_topics(client: AIOKafkaAdminClient, settings: Settings) -> dict[str, str]:
    """Return the topic's settings. Raises Fatal unless it and the dead-letter topic have the required ones."""
    found = await check_topic(client, settings.topic)
    await check_topic(client, settings.dead_letter_topic_name, REQUIRED_OF_DEAD_LETTERS)
    return found


async def end_offsets(client: AIOKafkaConsumer, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
    """Return the end offset of each partition. Raises as `kafka_fault` says."""
    try:
        return dict(await client.end_offsets(list(partitions)))
    except KafkaError as error:
        raise kafka_fault(error, "asking for offsets") from error


class LogBounds(NamedTuple):
    """First offset, end offset, and the group's committed offset, if any, of a partition."""

    start: int
    end: int
    committed: int | None


async def log_bounds(
    client: AIOKafkaConsumer, topic: str, partitions: Iterable[int], *, member: AIOKafkaConsumer | None = None
) -> dict[int, LogBounds]:
    """Read partitions' offsets. Committed ones need a `member` of the group. Raises as `kafka_fault` says.

    Use a client that fetches no records: a broker serves a connection's requests one by one, and a fetch waits for up
    to 100 ms. The end is read last, because another worker may commit newer records in the meantime.
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
    """Return a group's committed offsets by partition, without partitions that have no commit.

    Raises as `kafka_fault` says: Unavailable while a new cluster elects the group's coordinator, for example.
    """
    try:
        found = await client.list_consumer_group_offsets(group)
    except KafkaError as error:
        raise kafka_fault(error, f"asking for the offsets of group {group}") from error
    return {tp.partition: each.offset for tp, each in found.items() if tp.topic == topic and each.offset >= 0}


async def ping(settings: Settings) -> None:
    """Return when a broker answers; raise Unavailable when none does."""
    try:
        async with admin(settings) as client:
            await client.describe_cluster()
    except KafkaError as error:
        raise await connection_error(settings, error) from error
