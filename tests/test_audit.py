"""The audit balances when nothing is lost, and names the offset when something is."""

import itertools
from datetime import UTC, datetime

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import RecordsToDelete

from consumers.retention import expire_outcomes
from producers.simulation.simulator import Simulator
from readers.audit import PartitionAudit, audit
from readers.deep_audit import deep_audit
from runtime import kafka
from schemas.identity import mint_id
from schemas.wire import encode_headers, encode_value
from tests.lab import Lab, as_json, click, executions_on
from tests.test_validator import REFUSED
from tests.transactions import put_in_a_transaction, transactional_producer


async def accounts(lab: Lab) -> dict[int, PartitionAudit]:
    return {each.partition: each async for each in audit(lab.settings, lab.database)}


async def traffic(lab: Lab) -> None:
    """Stored, duplicate and rejected events on all partitions, appended at different times."""
    events = iter(Simulator(11, duplicates=0.3))
    for _ in range(4):
        await lab.emit_all(itertools.islice(events, 250))
    for number, (value, _reason, _field) in enumerate(REFUSED.values()):
        await lab.put(value, partition=number % 4)
    await lab.drain()


def total(found: dict[int, PartitionAudit], name: str) -> int:
    return sum(getattr(each, name) for each in found.values())


async def test_every_event_is_counted_once(lab: Lab) -> None:
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


async def transactions(lab: Lab, count: int) -> None:
    """Put records, each followed by a marker, and a last one without."""
    *executions, last = itertools.islice(executions_on(0), count + 1)
    async with transactional_producer(lab) as producer:
        for execution in executions:
            await put_in_a_transaction(lab, producer, [as_json(execution=execution)])
    await lab.put(as_json(execution=last), partition=0)
    await lab.drain()


async def test_transaction_markers_are_not_events(lab: Lab) -> None:
    await transactions(lab, 3)
    found = await accounts(lab)
    assert found[0].balances, found[0]
    assert (found[0].accepted, found[0].stored, found[0].not_records) == (4, 4, 3)


async def test_records_deleted_from_the_log_after_reading_still_balance(lab: Lab) -> None:
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


async def test_an_audit_can_be_limited_to_a_time_range(lab: Lab) -> None:
    await traffic(lab)
    ((middle,),) = await lab.rows("SELECT quantileExact(0.5)(timestamp) FROM interactions")
    ((newest,),) = await lab.rows(
        "SELECT max(timestamp) + INTERVAL 1 SECOND FROM "
        "(SELECT timestamp FROM interactions UNION ALL SELECT timestamp FROM outcomes)"
    )
    whole = await accounts(lab)
    halves = [
        {each.partition: each async for each in audit(lab.settings, lab.database, since, until)}
        for since, until in ((None, middle), (middle, None))
    ]
    for partition, expected in whole.items():
        assert all(half[partition].balances for half in halves)
        for name in ("accepted", "stored", "duplicates", "rejected"):
            assert sum(getattr(half[partition], name) for half in halves) == getattr(expected, name)
    assert 0 < total(halves[0], "accepted") < total(whole, "accepted")
    later = [each async for each in audit(lab.settings, lab.database, newest)]
    assert total(dict(enumerate(later)), "accepted") == 0


async def test_many_markers_are_distinguished_from_loss(lab: Lab) -> None:
    """Read in one go, and among them is one record that is lost."""
    await transactions(lab, 150)
    await lab.database.command("ALTER TABLE interactions DELETE WHERE _offset = 200 SETTINGS mutations_sync = 2")
    found = (await accounts(lab))[0]
    assert (found.accepted, found.stored, found.not_records) == (151, 150, 150)
    assert (found.difference, found.lost) == (1, [200])


async def test_records_that_expired_unread_are_distinguished_from_lost_ones(lab: Lab) -> None:
    receipts = await lab.emit(*(click(f"doc-{number}") for number in range(10)))
    await lab.drain()
    await lab.emit(*(click(f"doc-{number}") for number in range(10, 20)))
    partition = receipts[0].partition
    async with kafka.admin(lab.settings) as admin:
        await admin.delete_records({TopicPartition(lab.settings.topic, partition): RecordsToDelete(before_offset=15)})
    found = (await accounts(lab))[partition]
    assert (found.expired_unread, found.in_flight, found.difference) == (5, 5, 0)


async def test_part_of_a_ledger_month_is_counted_without_verdicts(lab: Lab) -> None:
    await traffic(lab)
    ((middle,),) = await lab.rows("SELECT quantileExact(0.5)(timestamp) FROM interactions")
    assert await expire_outcomes(lab.database, keep_days=1, now=datetime(2100, 1, 1, tzinfo=UTC))
    found = {each.partition: each async for each in audit(lab.settings, lab.database, None, middle)}
    assert all(each.balances for each in found.values())
    assert total(found, "expired_outcomes") > 0


async def test_the_deep_audit_of_correct_outcomes_finds_nothing(lab: Lab) -> None:
    await traffic(lab)
    found = await deep_audit(lab.settings, lab.database)
    assert found.balances, found
    assert found.looked_up >= 1_000


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ("ALTER TABLE interactions UPDATE _event_time_ms = _event_time_ms - 300000 WHERE 1", "within the window"),
        ("ALTER TABLE interactions UPDATE timestamp = timestamp - INTERVAL 10 MINUTE WHERE 1", "too far apart"),
        ("ALTER TABLE interactions DELETE WHERE 1", "is not stored"),
        ("ALTER TABLE outcomes UPDATE reason = 'same_id' WHERE verdict = 'duplicate'", "has another id"),
    ],
)
async def test_the_deep_audit_finds_a_wrong_owner(lab: Lab, change: str, what: str) -> None:
    await traffic(lab)
    await lab.database.command(f"{change} SETTINGS mutations_sync = 2")
    found = await deep_audit(lab.settings, lab.database)
    assert any(what in each for each in found.wrong_owners), found


async def test_the_deep_audit_finds_a_repeated_id(lab: Lab) -> None:
    minted = mint_id()
    for feature in ("a", "b"):
        await lab.put(encode_value(click(feature), minted), key=b"default:exec-1", headers=encode_headers("default"))
    await lab.drain()
    found = await deep_audit(lab.settings, lab.database)
    assert [each.split()[1] for each in found.ids_twice] == [minted]
