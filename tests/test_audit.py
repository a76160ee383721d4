"""The audit balances when nothing is lost, and names the offset when something is."""

import itertools
from datetime import UTC, datetime

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import RecordsToDelete

from consumers.retention import expire_outcomes
from producers.simulator import Simulator
from readers.audit import PartitionAudit, audit
from runtime import kafka
from tests.lab import Lab, as_json, click
from tests.test_judge import REFUSED


async def accounts(lab: Lab) -> dict[int, PartitionAudit]:
    return {each.partition: each async for each in audit(lab.settings, lab.database)}


async def traffic(lab: Lab) -> None:
    """Stored, duplicate and rejected events on all partitions."""
    await lab.emit_all(itertools.islice(iter(Simulator(11, duplicates=0.3)), 1_000))
    for number, (value, _reason, _field) in enumerate(REFUSED.values()):
        await lab.put(value, partition=number % 4)
    await lab.drain()


def total(found: dict[int, PartitionAudit], name: str) -> int:
    return sum(getattr(each, name) for each in found.values())


async def test_every_event_is_in_one_place(lab: Lab) -> None:
    await traffic(lab)
    await lab.emit_all(itertools.islice(iter(Simulator(12)), 50))
    found = await accounts(lab)
    assert all(each.balances for each in found.values())
    assert total(found, "accepted") == 1_050 + len(REFUSED)
    assert total(found, "rejected") == len(REFUSED)
    assert total(found, "stored") == await lab.count("interactions")
    assert total(found, "stored") + total(found, "duplicates") == 1_000
    assert total(found, "in_flight") == 50


async def test_a_lost_event_is_named(lab: Lab) -> None:
    await traffic(lab)
    ((partition, offset),) = await lab.rows(
        "SELECT _partition, _offset FROM interactions ORDER BY _offset DESC LIMIT 1"
    )
    await lab.database.command(
        f"ALTER TABLE interactions DELETE WHERE _partition = {partition} AND _offset = {offset} "
        "SETTINGS mutations_sync = 2"
    )
    found = await accounts(lab)
    assert (found[partition].difference, found[partition].lost) == (1, [offset])
    assert not found[partition].balances
    assert all(each.balances for number, each in found.items() if number != partition)


async def test_an_event_recorded_twice_is_named(lab: Lab) -> None:
    await traffic(lab)
    ((partition, offset),) = await lab.rows("SELECT _partition, _offset FROM interactions ORDER BY _offset LIMIT 1")
    await lab.database.command(
        "INSERT INTO outcomes (interaction_id, _topic, _partition, _offset, verdict, timestamp) "
        f"SELECT interaction_id, _topic, _partition, _offset, 'duplicate', timestamp FROM interactions "
        f"WHERE _partition = {partition} AND _offset = {offset}"
    )
    found = await accounts(lab)
    assert (found[partition].difference, found[partition].recorded_twice) == (-1, [offset])


async def test_a_row_inserted_again_counts_once(lab: Lab) -> None:
    await traffic(lab)
    for table in ("interactions", "outcomes"):
        await lab.database.command(f"INSERT INTO {table} SELECT * FROM {table}")
    assert all(each.balances for each in (await accounts(lab)).values())


async def test_transaction_markers_are_no_events(lab: Lab) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=lab.settings.kafka, transactional_id=lab.settings.topic)
    await producer.start()
    for number in range(3):
        async with producer.transaction():
            await producer.send(lab.settings.topic, as_json(execution=f"e{number}"), partition=0)
    await producer.stop()
    await lab.put(as_json(execution="last"), partition=0)
    await lab.drain()
    found = await accounts(lab)
    assert found[0].balances, found[0]
    assert (found[0].accepted, found[0].stored, found[0].not_records) == (4, 4, 3)


async def test_what_the_log_forgot_after_it_was_read_still_balances(lab: Lab) -> None:
    await traffic(lab)
    async with kafka.admin(lab.settings) as admin:
        await admin.delete_records({TopicPartition(lab.settings.topic, 0): RecordsToDelete(before_offset=20)})
    found = await accounts(lab)
    assert all(each.balances for each in found.values())


async def test_outcomes_in_the_ledger_still_count(lab: Lab) -> None:
    await traffic(lab)
    before = await accounts(lab)
    assert await expire_outcomes(lab.database, keep_days=1, now=datetime(2100, 1, 1, tzinfo=UTC))
    after = await accounts(lab)
    assert await lab.count("outcomes") == 0
    assert all(each.balances for each in after.values())
    for name in ("accepted", "stored", "duplicates", "rejected"):
        assert total(after, name) == total(before, name)


async def test_an_empty_topic_balances(lab: Lab) -> None:
    assert all(each == PartitionAudit(partition=number) for number, each in (await accounts(lab)).items())
    await lab.emit(click())
    assert total(await accounts(lab), "in_flight") == 1
