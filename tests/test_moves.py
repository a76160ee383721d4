"""Misplaced events: one that a producer puts on another partition than its key's is moved there, exactly once."""

import itertools
import random
import string
import zlib
from typing import Any

import cramjam
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.records import EVENT_BYTES
from producers.partitions import partition_of
from readers.audit import audit
from readers.deep_audit import deep_audit
from runtime import kafka
from runtime.expansions import Expansion, Expansions
from runtime.topic_settings import change_topic_settings
from schemas import letter
from schemas.identity import derive_foreign_id, mint_id
from schemas.interaction import Interaction
from schemas.validator import validate
from schemas.wire import (
    MOVED_FROM_HEADER,
    ORIGIN_HEADER,
    ValidEvent,
    encode_headers,
    encode_value,
    partition_key,
    with_id,
)
from tally.dead_letters.reading import Selection
from tally.dead_letters.replay import replay
from tests.crashes import crash_at
from tests.hostile.log_cases import ZSTD
from tests.hostile.raw_producer import RawProducer, RawRecord, encode_batch, encode_records
from tests.lab import Lab, ReadRecord, as_json, click, reading
from tests.test_backup import rewind
from tests.traffic import keyed_traffic
from tests.validating import APPEND_MS, validated

PARTITIONS = 4


def home_of(execution: str) -> int:
    """The partition that an execution's events belong on."""
    return partition_of(f"default:{execution}".encode(), PARTITIONS)


def elsewhere(execution: str, away: int = 1) -> int:
    """Another partition."""
    return (home_of(execution) + away) % PARTITIONS


async def records_of(lab: Lab) -> list[ReadRecord]:
    """Everything on the topic."""
    async with reading(lab.settings, lab.settings.topic) as records:
        return sorted(records, key=lambda each: (each.partition, each.offset))


async def copies_of(lab: Lab) -> list[ReadRecord]:
    """Return the copies that a worker has made."""
    return [each for each in await records_of(lab) if MOVED_FROM_HEADER in dict(each.headers)]


async def assert_audited(lab: Lab) -> None:
    """Every record is in one place, and every outcome is right."""
    parts = [each async for each in audit(lab.settings, lab.database)]
    assert all(each.balances and not each.in_flight for each in parts), parts
    deep = await deep_audit(lab.settings, lab.database)
    assert deep.balances, deep


async def test_one_click_of_four_clients_is_stored_once(lab: Lab) -> None:
    """HTTP's producer, murmur2, librdkafka's default partitioner (CRC32), and a client that sends no key."""
    keys = (f"default:exec-{number}".encode() for number in range(99))
    key = next(each for each in keys if zlib.crc32(each) % PARTITIONS != partition_of(each, PARTITIONS))
    execution = key.removeprefix(b"default:").decode()
    await lab.emit(click(execution=execution))
    await lab.put(as_json(execution=execution), key=key)
    await lab.put(as_json(execution=execution), key=key, partition=zlib.crc32(key) % PARTITIONS)
    await lab.put(as_json(execution=execution), key=None, partition=elsewhere(execution, 3))
    counts = await lab.drain()
    assert (counts.stored, counts.duplicates, counts.moved) == (1, 3, 2)
    assert await lab.rows("SELECT _partition FROM interactions FINAL") == [(home_of(execution),)]
    moved = await lab.rows("SELECT _copy_partition, reason FROM outcomes FINAL WHERE verdict = 'moved'")
    assert moved == [(home_of(execution), "misplaced")] * 2
    await assert_audited(lab)


async def test_an_event_that_grows_beyond_the_size_limit_keeps_its_id(lab: Lab) -> None:
    """Otherwise its copy would be rejected under another id, and the original would have no copy."""
    ids = [mint_id() for _ in range(4)]
    values = [as_json(execution=f"exec-{number}", interaction_id=each) for number, each in enumerate(ids)]
    sizes = (EVENT_BYTES - 250, EVENT_BYTES - 80, EVENT_BYTES - 16 * 1024, 200)
    grown = [value.rjust(size) for value, size in zip(values, sizes, strict=True)]
    without_id = as_json(execution="exec-9").rjust(EVENT_BYTES - 80)
    async with RawProducer(lab.settings.kafka) as producer:
        for value, number in zip([*grown, without_id], (0, 1, 2, 3, 9), strict=True):
            payload = bytes(cramjam.zstd.compress(encode_records([RawRecord(value, b"k")])))
            batch = encode_batch(payload, 1, attributes=ZSTD)
            await producer.send(lab.settings.topic, elsewhere(f"exec-{number}"), batch)
    counts = await lab.drain()
    assert (counts.stored, counts.moved, counts.rejected) == (3, 3, 2)
    rejected = await lab.rows("SELECT interaction_id, reason FROM outcomes FINAL WHERE verdict = 'rejected'")
    assert sorted(rejected) == sorted((each, "not_moved") for each in ids[:2])
    await assert_audited(lab)
    done = [each async for each in replay(lab.settings, lab.database, Selection())][-1]
    assert (done.passing, done.failing.total()) == (2, 0), "without its blanks it is small"
    await lab.drain()
    assert set(ids) <= {each for (each,) in await lab.rows("SELECT interaction_id FROM interactions FINAL")}


async def test_an_event_without_an_id_gets_the_id_of_its_original_place(lab: Lab) -> None:
    """The copy is the event, byte for byte, with its id, the time and the place of the original, and the right key."""
    place = await lab.put(as_json(), key=b"wrong", partition=elsewhere("exec-1"), headers=[("app", b"1")])
    await lab.drain()
    (original,) = [each for each in await records_of(lab) if (each.partition, each.offset) == place]
    (copy,) = await copies_of(lab)
    interaction_id = derive_foreign_id(lab.settings.topic, *place, original.timestamp)
    assert copy.partition == home_of("exec-1")
    assert (copy.key, copy.value) == (b"default:exec-1", with_id(as_json(), interaction_id))
    assert dict(copy.headers)[MOVED_FROM_HEADER] == f"{lab.settings.topic}/{place.partition}/{place.offset}".encode()
    assert dict(copy.headers)[ORIGIN_HEADER] == b"%d" % original.timestamp
    rows = await lab.rows("SELECT interaction_id, _partition, _offset, _event_time_ms FROM interactions")
    assert rows == [(interaction_id, copy.partition, copy.offset, original.timestamp)]
    rows = await lab.rows("SELECT interaction_id, _partition, _offset, _copy_partition, _copy_offset FROM outcomes")
    assert rows == [(interaction_id, *place, copy.partition, copy.offset)]


@pytest.mark.parametrize(
    "headers",
    [
        [],
        encode_headers("shop"),
        encode_headers("shop", derived_id=True, origin_ms=1_790_000_000_000),
        encode_headers("shop", idempotency_key="tökén"),
        encode_headers("shop", idempotency_key="token", deduplicate=False),
        encode_headers(
            "shop", deduplicate=False, traceparent=b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
        ),
    ],
)
async def test_a_copy_keeps_the_id_and_headers_of_its_event(lab: Lab, headers: list[tuple[str, bytes]]) -> None:
    given, minted = dict(headers), mint_id()
    token = given.get("tally-idempotency-key", b"").decode()
    namespace = given.get("tally-namespace", b"default").decode()
    event = click(execution=None, session_id="s", user_id="u")
    home = partition_of(partition_key(namespace, event, token), PARTITIONS)
    await lab.put(encode_value(event, minted), headers=headers, partition=(home + 1) % PARTITIONS)
    counts = await lab.drain()
    assert (counts.stored, counts.moved) == (1, 1)
    (copy,) = await copies_of(lab)
    assert copy.value == encode_value(event, minted)
    assert dict(copy.headers).get("traceparent") == given.get("traceparent")
    rows = await lab.rows("SELECT interaction_id, namespace, _partition, _idempotency_key, _keyed FROM interactions")
    assert rows == [(minted, namespace, home, token, bool(token) and "tally-deduplicate" not in given)]
    ((event_ms,),) = await lab.rows("SELECT _event_time_ms FROM interactions")
    (original,) = [each for each in await records_of(lab) if each.partition != home]
    assert event_ms == int(given.get(ORIGIN_HEADER, b"%d" % original.timestamp))
    await assert_audited(lab)


spaces = st.text(" \t\r\n", max_size=2)
extras = st.lists(
    st.sampled_from(
        [
            '"interaction_id":null',
            '"interaction\\u005fid":null',
            f'"interaction_id":"{mint_id()}"',
            '"user_id":"{\\"interaction_id\\"}"',
            '"metadata":{"interaction_id":"x","n":1.10}',
        ]
    ),
    max_size=4,
)


@given(spaces, spaces, extras)
def test_inserting_an_id_changes_nothing_else_of_an_event(before: str, after: str, more: list[str]) -> None:
    """In any spelling, also when the id is null, or is set and then overwritten."""
    members = ['"feature_id":"f"', '"interaction_type":["view"]', '"position":0', *more]
    value = f"{before}{{{before}{f',{after}'.join(members)}{after}}}{after}".encode()
    found, minted = validate(value), mint_id()
    assert isinstance(found, ValidEvent)
    moved = validate(with_id(value, minted))
    assert isinstance(moved, ValidEvent)
    found.event.interaction_id = minted
    assert moved == found


@pytest.mark.parametrize("failpoint", ["validated", "resumed", "claimed", "erased", "copied", "lettered", "recorded"])
async def test_a_crash_around_a_move_changes_nothing(lab: Lab, failpoint: str) -> None:
    """The copy is written again, and is a duplicate of the first one by its id."""
    minted, execution = mint_id(), "exec-1"
    await lab.put(as_json("a", interaction_id=minted), partition=elsewhere(execution))
    await lab.put(as_json("b"), partition=elsewhere(execution))
    await lab.put(as_json("c", None, position=-1), partition=elsewhere(execution))
    for _ in range(3):
        with crash_at(failpoint):
            await lab.drain()
    await lab.drain()
    copies = len(await copies_of(lab))
    assert copies == {"copied": 8, "lettered": 8}.get(failpoint, 2)
    stored = await lab.rows("SELECT feature_id, _partition FROM interactions FINAL ORDER BY feature_id")
    assert stored == [("a", home_of(execution)), ("b", home_of(execution))]
    outcomes = dict(await lab.rows("SELECT toString(verdict), count() FROM outcomes FINAL GROUP BY verdict"))
    assert outcomes == {"moved": 2, "rejected": 1} | ({"duplicate": copies - 2} if copies > 2 else {})
    assert {row[0] for row in await lab.rows("SELECT reason FROM outcomes WHERE verdict = 'duplicate'")} <= {"same_id"}
    await assert_audited(lab)


async def test_recorded_moves_are_skipped_when_a_commit_was_lost(lab: Lab) -> None:
    await lab.put(as_json(), partition=elsewhere("exec-1"))
    first = await lab.drain()
    await rewind(lab.settings, dict.fromkeys(range(PARTITIONS), 0))
    second = await lab.drain()
    assert (first.moved, first.stored) == (1, 1)
    assert (second.moved, second.stored, second.already_recorded) == (0, 0, 2)
    assert len(await copies_of(lab)) == 1


async def test_misplaced_events_are_stored_like_correctly_placed_ones(lab: Lab) -> None:
    """Thousands of events, in several batches: the same tuples, each once."""
    traffic = list(itertools.islice(keyed_traffic(8, duplicates=0.2), 3_000))
    async with kafka.producer(lab.settings) as producer:
        for number, event in enumerate(traffic):
            value = encode_value(event, mint_id())
            await producer.send(lab.settings.topic, value, partition=number % PARTITIONS)
    counts = await lab.drain(batch_rows=700)
    assert counts.stored + counts.duplicates == 3_000
    assert counts.moved > 2_000
    distinct = {_tuple_of(event) for event in traffic}
    stored = await lab.rows("SELECT execution_id, feature_id, arraySort(interaction_type) FROM interactions FINAL")
    assert sorted(stored) == sorted((execution, feature, sorted(types)) for execution, feature, types in distinct)
    await assert_audited(lab)


def _tuple_of(event: Interaction) -> tuple[str, str, frozenset[str]]:
    return str(event.execution_id), event.feature_id, frozenset(event.interaction_type)


async def limit_records(lab: Lab, nbytes: int) -> None:
    """Limit the size of records on the topic."""
    async with kafka.admin(lab.settings) as admin:
        await change_topic_settings(admin, lab.settings.topic, max_message_bytes=str(nbytes))


async def put_back(lab: Lab) -> None:
    """Run `tally dlq replay --reason not_moved`."""
    async for done in replay(lab.settings, lab.database, Selection(reason="not_moved")):
        assert not done.failing


async def test_a_copy_that_is_too_large_becomes_a_dead_letter_that_can_be_replayed(lab: Lab) -> None:
    """The event keeps its id; the events around it are moved."""
    minted, noise = mint_id(), random.Random(1).choices(string.ascii_letters + string.digits, k=6_000)
    large = as_json(interaction_id=minted, metadata={"noise": "".join(noise)})
    for value in (as_json("before"), large, as_json("after")):
        await lab.put(value, partition=elsewhere("exec-1"), key=b"default:exec-1")
    await limit_records(lab, len(large) + 150)  # the copy's headers need more
    counts = await lab.drain()
    assert (counts.moved, counts.stored, counts.rejected) == (2, 2, 1)
    rows = await lab.rows("SELECT interaction_id, reason, message FROM outcomes WHERE verdict = 'rejected'")
    assert [row[:2] for row in rows] == [(minted, "not_moved")]
    assert f"belongs on partition {home_of('exec-1')}" in rows[0][2]
    (only,) = await lab.letters()
    assert (only.value, dict(only.headers)[letter.REASON]) == (large, b"not_moved")

    await limit_records(lab, lab.settings.max_record_bytes)
    for _ in range(2):
        await put_back(lab)
        await lab.drain()
    ((partition, event_ms),) = await lab.rows(
        "SELECT _partition, _event_time_ms FROM interactions WHERE interaction_id = {id:String}", id=minted
    )
    (original,) = [each for each in await records_of(lab) if each.value == large and each.partition != partition]
    assert (partition, event_ms) == (home_of("exec-1"), original.timestamp)
    await assert_audited(lab)


async def test_a_topic_that_refuses_records_does_not_stop_a_worker(lab: Lab) -> None:
    """During an expansion all records are committed, and stored once when they are replayed later."""
    executions = [f"exec-{number}" for number in range(300)]
    async with kafka.producer(lab.settings) as producer:
        for execution in executions:
            await producer.send(
                lab.settings.topic, as_json(execution=execution), partition=elsewhere(execution), key=b"any"
            )
    await limit_records(lab, 1)
    counts = await lab.drain()
    assert (counts.moved, counts.rejected) == (0, 300)
    await limit_records(lab, lab.settings.max_record_bytes)
    for _ in range(2):
        await put_back(lab)
    counts = await lab.drain()
    assert (counts.stored, counts.moved) == (300, 0)
    await assert_audited(lab)


def test_a_copy_with_an_origin_time_after_its_append_time_is_valid() -> None:
    """Two partitions may be two brokers'. Of any other record an origin that is later than itself is refused."""
    later: dict[str, Any] = {"derived_id": True, "origin_ms": APPEND_MS + 5}
    assert [each.rejection.reason for each in validated([as_json()], **later).rejected] == ["bad_header"]
    assert len(validated([as_json()], **later, moved_from="t/0/7").events) == 1


@given(
    st.lists(st.tuples(st.integers(0, 2**31 - 1), st.integers(0, 11), st.integers(0, 9)), max_size=30),
    st.lists(st.lists(st.integers(0, 9), min_size=12, max_size=12), max_size=2),
)
def test_a_record_from_before_an_expansion_belongs_on_its_original_partition(
    records: list[tuple[int, int, int]], ends: list[list[int]]
) -> None:
    """The partition count of its time decides; if wrong even then, it belongs on the current partition of its key."""
    counts = [3, 6, 12][: len(ends) + 1]
    expansions = Expansions(
        [
            Expansion(before, after, ends_then[:before], 0)
            for (before, after), ends_then in zip(itertools.pairwise(counts), ends, strict=True)
        ]
    )
    hashes = np.array([hashed for hashed, _, _ in records], np.int64)
    partitions = np.array([partition % counts[-1] for _, partition, _ in records], np.uint32)
    offsets = np.array([offset for _, _, offset in records], np.int64)
    homes = expansions.home_partitions(hashes, partitions, offsets, counts[-1])
    for hashed, partition, offset, home in zip(hashes, partitions, offsets, homes, strict=True):
        then = next(
            (each.before for each in expansions.all if partition < each.before and offset < each.ends[partition]),
            counts[-1],
        )
        assert home == (partition if hashed % then == partition else hashed % counts[-1])
