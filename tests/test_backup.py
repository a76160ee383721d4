"""A backup of the tables and its restore: later events are read from the topic again."""

import itertools

from aiokafka import AIOKafkaConsumer, TopicPartition

from producers.simulation.simulator import Simulator
from readers.audit import PartitionAudit, audit
from runtime.clickhouse import connect
from runtime.redis import connect_redis
from runtime.settings import Settings
from tests.lab import Lab

CONTENT = "SELECT interaction_id, _partition, _offset FROM interactions FINAL ORDER BY ALL"
OUTCOMES = "SELECT interaction_id, verdict, duplicate_of FROM outcomes FINAL ORDER BY ALL"


async def audited(lab: Lab) -> list[PartitionAudit]:
    """The accounts of every partition."""
    return [each async for each in audit(lab.settings, lab.database)]


async def rewind(settings: Settings, offsets: dict[int, int]) -> None:
    """Do what `kafka-consumer-groups --reset-offsets` does while no worker runs.

    Without auto-commit: as it stops, the client would commit the position that it took from the offsets before.
    """
    client = AIOKafkaConsumer(bootstrap_servers=settings.kafka, group_id=settings.group, enable_auto_commit=False)
    await client.start()
    try:
        wanted = {TopicPartition(settings.topic, number): offset for number, offset in offsets.items()}
        client.assign(list(wanted))
        await client.commit(wanted)
    finally:
        await client.stop()


async def test_events_after_the_backup_are_read_again(lab: Lab) -> None:
    settings, traffic = lab.settings, iter(Simulator(41, duplicates=0.3))
    await lab.emit_all(itertools.islice(traffic, 600))
    await lab.drain()
    await lab.database.command(f"BACKUP DATABASE {settings.database} TO File('{settings.topic}')")
    committed = {each.partition: each.accepted for each in await audited(lab)}
    await lab.emit_all(itertools.islice(traffic, 600))
    await lab.drain()
    accounts, content, outcomes = await audited(lab), await lab.rows(CONTENT), await lab.rows(OUTCOMES)

    async with connect(settings, database="default") as server:
        await server.command(f"DROP DATABASE {settings.database} SYNC")
        await server.command(f"RESTORE DATABASE {settings.database} FROM File('{settings.topic}')")
    assert sum(len(each.lost) for each in await audited(lab)) > 500, "the audit says what the backup does not have"
    async with connect_redis(settings) as redis:
        for key in await redis.keys(f"{settings.key_prefix}*"):
            await redis.delete(key)
    await rewind(settings, committed)
    await lab.drain()
    assert await audited(lab) == accounts
    assert await lab.rows(CONTENT) == content
    assert await lab.rows(OUTCOMES) == outcomes
