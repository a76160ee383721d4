"""Common steps of tests: put records on the topic, let a worker drain it, and read the outcomes."""

import asyncio
import itertools
import json
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from pydantic import SecretStr

from consumers.batch import Counts
from consumers.record_ranges import read_range
from consumers.records import Records
from consumers.worker import Worker
from deploy.embedded.stack import Stack
from kernels.boundary import ReadLimits
from producers.partitions import partition_of
from producers.producer import ImportedInteraction, NotAccepted, Producer, Receipt
from runtime import kafka
from runtime.clickhouse import ClickHouse, connect
from runtime.migrate import migrate
from runtime.settings import Settings
from schemas.interaction import Interaction
from schemas.tables import MIGRATIONS_TABLE
from schemas.validator import validate
from schemas.wire import IDEMPOTENCY_HEADER, NAMESPACE_HEADER, ValidEvent, partition_key

KEY_OF_EVENT = b"the key that an event should have"

ReadRecord = ConsumerRecord[bytes | None, bytes | None]


def settings_of_its_own(stack: Stack, folder: Path) -> Settings:
    """Settings of one test, or one file of tests, alone. Nothing is created yet."""
    name = f"t{uuid.uuid4().hex[:12]}"
    own = {"data_dir": folder, "topic": name, "group": name, "database": name, "key_prefix": name, "partitions": 4}
    return stack.settings().model_copy(update={**own, "batch_age_ms": 50})


class Tables(NamedTuple):
    """The tables of this version as statements, which take a third of the time that the migrations take."""

    database: str
    statements: tuple[str, ...]

    @classmethod
    async def of_migrations(cls, settings: Settings) -> "Tables":
        """The tables that the migrations make in this database."""
        await migrate(settings)
        async with connect(settings) as database:
            created = await database.rows(
                "SELECT create_table_query FROM system.tables WHERE database = currentDatabase() "
                "ORDER BY engine = 'View', name"
            )
            applied = await database.rows(f"SELECT version, oldest FROM {MIGRATIONS_TABLE}")
        versions = ", ".join(f"({version}, {oldest})" for version, oldest in applied)
        noted = f"INSERT INTO {settings.database}.{MIGRATIONS_TABLE} (version, oldest) VALUES {versions}"
        statements = f"CREATE DATABASE {settings.database}", *(statement for (statement,) in created), noted
        return cls(settings.database, statements)

    async def create_in(self, server: ClickHouse, database: str) -> None:
        """Create them in a database that is not there yet."""
        for statement in self.statements:
            await server.command(statement.replace(self.database, database))

    async def clear(self, server: ClickHouse, database: str) -> bool:
        """Delete all rows, which costs a tenth of new tables. False if a test has changed, added or dropped a table."""
        found = await server.rows(
            "SELECT create_table_query FROM system.tables WHERE database = {database:String} "
            "ORDER BY engine = 'View', name",
            {"database": database},
        )
        if [query for (query,) in found] != [each.replace(self.database, database) for each in self.statements[1:-1]]:
            return False
        await server.command(f"TRUNCATE TABLES FROM {database}")
        await server.command(self.statements[-1].replace(self.database, database))
        return True


@asynccontextmanager
async def lab_of(settings: Settings) -> AsyncIterator["Lab"]:
    """The topic and tables of these settings, created as `tally init` does."""
    await kafka.create_topics(settings)
    await migrate(settings)
    async with connect(settings) as database, kafka.producer(settings, dead_letters=True) as raw:
        yield Lab(settings, database, raw)


def at_port(url: SecretStr, port: int, scheme: str = "") -> SecretStr:
    """The same address, user and password at another port of this machine: a proxy's."""
    parts = urlsplit(url.get_secret_value())
    credentials, at, _ = parts.netloc.rpartition("@")
    there = parts._replace(scheme=scheme or parts.scheme, netloc=f"{credentials}{at}127.0.0.1:{port}")
    return SecretStr(there.geturl())


class Place(NamedTuple):
    """Where a raw record landed."""

    partition: int
    offset: int


class Lab:
    """Topic, tables and keys of one test."""

    def __init__(self, settings: Settings, database: ClickHouse, raw: AIOKafkaProducer) -> None:
        self.settings = settings
        self.database = database
        self._raw = raw

    async def emit(self, *interactions: Interaction) -> list[Receipt]:
        """Emit through the producer; every one must be accepted."""
        return await self.emit_all(interactions)

    async def emit_all(self, interactions: Iterable[Interaction | ImportedInteraction]) -> list[Receipt]:
        """The same for any number."""
        receipts = []
        async with Producer(self.settings) as producer:
            async for result in producer.emit_many(interactions):
                assert not isinstance(result, NotAccepted), result
                receipts.append(result)
        return receipts

    async def put(
        self,
        value: bytes | None,
        *,
        key: bytes | None = KEY_OF_EVENT,
        headers: Sequence[tuple[str, bytes | None]] = (),
        partition: int | None = None,
        topic: str | None = None,
    ) -> Place:
        """Put a record on a topic as a foreign producer would; by default with the key that an event should have."""
        if key is KEY_OF_EVENT:
            key = key_of(value, headers)
        landed = await self._raw.send_and_wait(
            topic or self.settings.topic, value=value, key=key, headers=list(headers), partition=partition
        )
        return Place(landed.partition, landed.offset)

    async def put_all(self, values: Iterable[tuple[bytes, int]]) -> list[Place]:
        """Put values on partitions, in order, without waiting for each."""
        pending = [
            await self._raw.send(self.settings.topic, value=value, key=key_of(value, ()), partition=partition)
            for value, partition in values
        ]
        return [Place(each.partition, each.offset) for each in await asyncio.gather(*pending)]

    async def drain(self, **overrides: Any) -> Counts:
        """Run one worker until it has caught up."""
        settings = self.settings.model_copy(update=overrides)
        return await Worker(settings, instance=None, until_caught_up=True).run()

    async def log_ends(self) -> list[int]:
        """The end offset of each partition of the topic."""
        places = [TopicPartition(self.settings.topic, partition) for partition in range(self.settings.partitions)]
        async with kafka.offset_reader(self.settings) as log:
            ends = await kafka.end_offsets(log, places)
        return [ends[place] for place in places]

    async def rows(self, sql: str, **parameters: Any) -> list[tuple[Any, ...]]:
        """Rows of a query on this test's database."""
        return [tuple(row) for row in await self.database.rows(sql, parameters)]

    async def count(self, table: str) -> int:
        """Return the number of distinct rows of a table."""
        ((count,),) = await self.rows(f"SELECT count() FROM {table} FINAL")
        return int(count)

    async def letters(self) -> list[ReadRecord]:
        """Every record of the dead-letter topic."""
        async with reading(self.settings, self.settings.dead_letter_topic_name) as records:
            return records


async def read_topic(settings: Settings, topic: str, limits: ReadLimits) -> Records:
    """All records of a topic, up to its present end, as workers read them."""
    async with kafka.admin(settings) as admin:
        numbers = await kafka.partition_numbers(admin, topic)
    async with kafka.record_reader(settings) as client:
        parts = []
        for place in (TopicPartition(topic, number) for number in numbers):
            client.assign([place])
            (begin,) = (await client.beginning_offsets([place])).values()
            (end,) = (await client.end_offsets([place])).values()
            parts += [part async for part in read_range(client, place, begin, end, limits, patience_ms=60_000)]
    return Records.joined(parts)


@asynccontextmanager
async def reading(settings: Settings, topic: str) -> AsyncIterator[list[ReadRecord]]:
    """All records of a topic, up to its present end, as another client reads them."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.kafka, max_partition_fetch_bytes=8 * 1024 * 1024, fetch_max_wait_ms=50
    )
    await consumer.start()
    try:
        await consumer._client._wait_on_metadata(topic)
        partitions = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic) or ()]
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        ends = await consumer.end_offsets(partitions)
        records: list[ReadRecord] = []
        while len(records) < sum(ends.values()):
            for found in (await consumer.getmany(timeout_ms=1000)).values():
                records += found
        yield records
    finally:
        await consumer.stop()


def key_of(value: bytes | None, headers: Sequence[tuple[str, bytes | None]]) -> bytes:
    """The partition key of an event; for an invalid event, any key."""
    validated, named = validate(value), dict(headers)
    if not isinstance(validated, ValidEvent):
        return b"k"
    namespace, token = named.get(NAMESPACE_HEADER) or b"default", named.get(IDEMPOTENCY_HEADER) or b""
    return partition_key(namespace.decode(errors="replace"), validated.event, token.decode(errors="replace"))


def executions_on(
    partition: int, name: str = "exec", *, namespace: str = "default", partitions: int = 4
) -> Iterator[str]:
    """Executions whose events belong on a partition, without end."""
    names = (f"{name}-{number}" for number in itertools.count())
    return (each for each in names if partition_of(f"{namespace}:{each}".encode(), partitions) == partition)


def execution_on(partition: int, name: str, *, namespace: str = "default", partitions: int = 4) -> str:
    """The first execution of this name on the partition."""
    return next(executions_on(partition, name, namespace=namespace, partitions=partitions))


def click(feature: str = "doc-1", execution: str | None = "exec-1", **fields: Any) -> Interaction:
    """A plain interaction to vary."""
    return Interaction(
        **{"feature_id": feature, "interaction_type": ["click"], "position": 0, "execution_id": execution, **fields}
    )


def as_json(feature: str = "doc-1", execution: str | None = "exec-1", **fields: Any) -> bytes:
    """The same as a foreign producer's bytes."""
    plain = {"feature_id": feature, "interaction_type": ["click"], "position": 0, "execution_id": execution}
    return json.dumps(plain | fields).encode()
