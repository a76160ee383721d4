"""The audit reports accepted events that compaction removes: holes in the log, not transaction markers."""

import asyncio
import json

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from readers.audit import PartitionAudit, audit
from readers.log_range import log_contents
from runtime import kafka, topic_settings
from runtime.log_batches import LogBatch, batch_reader, batches_in, find_first_waiting
from tests.cli_lab import command, environment
from tests.lab import Lab, as_json, execution_on
from tests.transactions import put_in_a_transaction, transactional_producer
from tests.waiting import eventually_async

SAME_KEY = b"one key"


async def accounts(lab: Lab) -> dict[int, PartitionAudit]:
    return {each.partition: each async for each in audit(lab.settings, lab.database)}


async def in_a_transaction(lab: Lab, count: int, *, keep: bool) -> None:
    """Put records in partition 0 in one transaction, followed by its marker."""
    values = [as_json(execution=execution_on(0, f"{keep} {number}")) for number in range(count)]
    keys = [b"%d" % number for number in range(count)]
    async with transactional_producer(lab) as producer:
        await put_in_a_transaction(lab, producer, values, keys=keys, keep=keep)


async def batches(lab: Lab, end: int, *, everything: bool = True) -> list[LogBatch]:
    async with batch_reader(lab.settings, everything=everything) as client:
        return [each async for each in batches_in(client, TopicPartition(lab.settings.topic, 0), 0, end)]


async def compact(lab: Lab, gone: range) -> None:
    """Let the broker compact partition 0 until these offsets are empty."""
    async with kafka.admin(lab.settings) as admin:
        broker = ConfigResource(ConfigResourceType.BROKER, "1", configs={"log.cleaner.backoff.ms": "100"})
        await admin.alter_configs([broker])
        await topic_settings.change_topic_settings(
            admin,
            lab.settings.topic,
            cleanup_policy="compact",
            segment_ms="1",
            min_cleanable_dirty_ratio="0.0",
            max_compaction_lag_ms="1",
        )

        async def is_compacted() -> bool:
            # The last segment is never compacted: a further record closes it.
            place = await lab.put(as_json(execution=execution_on(0, "a further one")), key=b"another key", partition=0)
            found = await batches(lab, place.offset)
            return not any(set(gone).intersection(range(each.first, each.end)) for each in found)

        await eventually_async(is_compacted)
        await topic_settings.change_topic_settings(
            admin, lab.settings.topic, cleanup_policy="delete", segment_ms="604800000"
        )


async def seen_by_a_client(lab: Lab, isolation_level: str, end: int) -> set[int]:
    """Offsets of the records that an ordinary client gives of partition 0."""
    client = AIOKafkaConsumer(bootstrap_servers=lab.settings.kafka, isolation_level=isolation_level)
    await client.start()
    try:
        place = TopicPartition(lab.settings.topic, 0)
        client.assign([place])
        client.seek(place, 0)
        seen: set[int] = set()
        while await client.position(place) < end:
            seen |= {each.offset for each in (await client.getmany(place, timeout_ms=500)).get(place, ())}
        return seen
    finally:
        await client.stop()


async def test_batch_headers_identify_records_and_markers(lab: Lab) -> None:
    """Committed and aborted records and both kinds of markers are identified as by a client, without reading values."""
    await lab.put(as_json(), partition=0)
    await in_a_transaction(lab, 3, keep=False)
    await in_a_transaction(lab, 2, keep=True)
    end = (await lab.put(as_json(), partition=0)).offset + 1
    kept, all_records = [await seen_by_a_client(lab, f"read_{each}committed", end) for each in ("", "un")]
    found = await batches(lab, end)
    covered = [(each.is_control, offset) for each in found for offset in range(each.first, each.end)]
    assert [offset for _, offset in covered] == list(range(end))
    assert {offset for is_control, offset in covered if is_control} == set(range(end)) - all_records
    assert all(each.is_whole for each in found)
    visible = await batches(lab, end, everything=False)
    assert {offset for each in visible for offset in range(each.first, each.end)} == kept
    assert len(all_records - kept) >= 3
    assert await log_contents(lab.settings, TopicPartition(lab.settings.topic, 0), range(end)) == (kept, set())


async def test_committed_and_aborted_transactions_balance(lab: Lab) -> None:
    """Markers and aborted records are neither events nor holes."""
    for keep in (True, False, True, False):
        await in_a_transaction(lab, 2, keep=keep)
    await lab.put(as_json(execution=execution_on(0, "last")), partition=0)
    await lab.drain()
    found = (await accounts(lab))[0]
    assert found.balances, found
    assert (found.accepted, found.not_records, found.holes, found.lost) == (5, 8, [], [])


async def test_events_removed_by_compaction_do_not_balance(lab: Lab) -> None:
    """100 accepted events of one key of which one is left: the audit names the offsets of the others, and exits 1."""
    await in_a_transaction(lab, 2, keep=True)
    for number in range(100):
        await lab.put(as_json(execution=execution_on(0, f"e{number}")), key=SAME_KEY, partition=0)
    await compact(lab, gone=range(3, 102))
    await lab.drain()
    found = (await accounts(lab))[0]
    assert not found.balances
    assert found.lost == []
    assert set(range(3, 102)) <= set(found.holes)
    assert found.difference == len(found.holes)
    assert found.accepted == found.stored + found.duplicates + len(found.holes)
    done = await asyncio.to_thread(command, "audit", "--json", env=environment(lab.settings))
    assert done.returncode == 1, done.stderr
    assert json.loads(done.stdout)["partitions"][0]["holes"] == found.holes


async def test_events_stored_before_compaction_balance(lab: Lab) -> None:
    """A hole is not a loss if its event has an outcome."""
    for number in range(20):
        await lab.put(as_json(execution=execution_on(0, f"e{number}")), key=SAME_KEY, partition=0)
    await lab.drain()
    await compact(lab, gone=range(19))
    await lab.database.command("ALTER TABLE interactions DELETE WHERE _offset = 7 SETTINGS mutations_sync = 2")
    found = (await accounts(lab))[0]
    assert (found.difference, found.lost, found.holes) == (1, [], [7])


@pytest.mark.parametrize("before_offset", [5, 15])
async def test_manually_deleted_records_balance_only_if_they_were_read(lab: Lab, before_offset: int) -> None:
    """kafka-delete-records is harmless for records with an outcome; records without one are lost."""
    for number in range(10):
        await lab.put(as_json(execution=execution_on(0, f"e{number}")), partition=0)
    await lab.drain()
    for number in range(10, 20):
        await lab.put(as_json(execution=execution_on(0, f"e{number}")), partition=0)
    async with kafka.admin(lab.settings) as admin:
        place = TopicPartition(lab.settings.topic, 0)
        await admin.delete_records({place: RecordsToDelete(before_offset=before_offset)})
    found = (await accounts(lab))[0]
    assert (found.stored, found.holes, found.lost) == (10, [], [])
    assert found.expired_unread == max(0, before_offset - 10)
    assert found.in_flight == 10 - found.expired_unread
    assert found.balances == (found.expired_unread == 0)


async def test_markers_and_aborted_records_do_not_wait(lab: Lab) -> None:
    """Only transaction markers and aborted records may follow the committed offset: then no record waits."""
    await lab.put(as_json(), partition=0)
    await in_a_transaction(lab, 2, keep=False)
    await lab.put(as_json(), partition=1)
    found = await find_first_waiting(lab.settings, {0: (1, 4), 1: (0, 1)})
    assert found[0] is None
    assert found[1] is not None
    assert (found[1].first, found[1].records) == (0, 1)
    await lab.put(as_json(), partition=0)
    (waiting,) = (await find_first_waiting(lab.settings, {0: (1, 5)})).values()
    assert waiting is not None
    assert waiting.first == 4
