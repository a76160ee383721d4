"""The consumer: what is on the topic ends stored, duplicate or rejected, once, whatever happened before."""

import asyncio
import itertools
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from aiokafka import TopicPartition
from aiokafka.admin import NewTopic, RecordsToDelete
from hypothesis import given
from hypothesis import strategies as st

from consumers import letters
from consumers.batch import Event, Judged, Rejected
from consumers.ceiling import RejectCeiling, TooManyRejects
from consumers.intake import Intake
from consumers.sink import insert_token
from consumers.worker import Worker
from producers.producer import Producer
from producers.simulator import Simulator
from runtime import kafka
from runtime.errors import Fatal, Unavailable
from runtime.migrate import migrate
from schemas.identity import derive_foreign_id, is_interaction_id, mint_id
from schemas.rejection import Rejection
from schemas.wire import WireEvent, encode_headers, encode_value
from tests.lab import Lab, as_json, click
from tests.test_judge import REFUSED
from tests.waiting import eventually_async

W = timedelta(milliseconds=300_000)


async def test_every_field_is_stored_as_it_was_sent(lab: Lab) -> None:
    occurred_at = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)
    full = click(
        "doc-ü",
        "exec-1",
        interaction_type=["impression", "click"],
        position=2**31 - 1,
        metadata={"a": [1, None, "ü"]},
        user_id="",
        session_id="s",
        retriever_id="r",
        query_snapshot={"text": "q"},
        document_score=-0.5,
        result_set_size=7,
        feature_uri="tally://x",
        occurred_at=occurred_at,
    )
    (receipt,) = await lab.emit(full)
    await lab.drain()
    ((row,),) = await lab.rows("SELECT tuple(* EXCEPT (version, is_deleted)) FROM interactions")
    assert row == (
        "default",
        receipt.interaction_id,
        "doc-ü",
        ["impression", "click"],
        2**31 - 1,
        '{"a":[1,null,"ü"]}',
        "",
        "s",
        "exec-1",
        "r",
        '{"text":"q"}',
        -0.5,
        7,
        "tally://x",
        occurred_at,
        receipt.timestamp,
        int(occurred_at.timestamp() * 1000),
        lab.settings.topic,
        receipt.partition,
        receipt.offset,
    )


async def test_a_future_event_is_shown_clamped_and_compared_unclamped(lab: Lab) -> None:
    future = datetime.now(UTC) + timedelta(days=365)
    (receipt, _) = await lab.emit(click(occurred_at=future), click())
    await lab.drain()
    rows = await lab.rows(
        "SELECT occurred_at, timestamp, _event_time_ms FROM interactions ORDER BY _event_time_ms DESC"
    )
    assert len(rows) == 2, "a year apart in event time, so no duplicate"
    assert rows[0] == (receipt.timestamp, receipt.timestamp, int(future.timestamp() * 1000))


async def test_duplicates_name_their_owner(lab: Lab) -> None:
    first, *others = await lab.emit(
        click(),
        click(user_id="another field does not matter", position=5),
        click(occurred_at=datetime.now(UTC) - W * 2),
        click(occurred_at=datetime.now(UTC) - W / 2),
        click(execution=None),
        click(execution=None),
        click(interaction_type=["view", "click"]),
        click(interaction_type=["click", "view", "click"]),
    )
    counts = await lab.drain()
    assert (counts.stored, counts.duplicates) == (5, 3)
    rows = await lab.rows("SELECT interaction_id, duplicate_of, user_id FROM outcomes ORDER BY interaction_id")
    owners = {interaction_id: owner for interaction_id, owner, _user in rows}
    assert owners == {
        others[0].interaction_id: first.interaction_id,
        others[2].interaction_id: first.interaction_id,
        others[6].interaction_id: others[5].interaction_id,
    }
    assert rows[0][2] == "another field does not matter"


async def test_namespaces_do_not_meet(lab: Lab) -> None:
    async with Producer(lab.settings) as producer:
        await producer.emit(click(), namespace="one")
        await producer.emit(click(), namespace="two")
    await lab.drain()
    assert await lab.rows("SELECT namespace FROM interactions ORDER BY namespace") == [("one",), ("two",)]


async def test_a_foreign_record_gets_a_derived_id_and_the_default_namespace(lab: Lab) -> None:
    place = await lab.put(as_json())
    await lab.drain()
    ((namespace, interaction_id, at),) = await lab.rows("SELECT namespace, interaction_id, timestamp FROM interactions")
    assert namespace == "default"
    assert interaction_id == derive_foreign_id(
        lab.settings.topic, place.partition, place.offset, int(at.timestamp() * 1000)
    )


async def test_a_foreign_record_on_the_wrong_partition_is_counted(lab: Lab) -> None:
    for partition in range(4):
        await lab.put(as_json(), partition=partition)
    for number in range(50):  # on their own partitions, as Kafka's own clients choose them
        await lab.put(as_json(execution=f"e{number}"), key=b"default:e%d" % number)
    counts = await lab.drain()
    assert (counts.stored, counts.misplaced) == (54, 3)


async def test_each_bad_input_among_good_ones_becomes_a_letter(lab: Lab) -> None:
    """10,000 good events and every bad value: all good ones stored, every bad one a letter with its reason."""
    places = {}
    good = itertools.islice(iter(Simulator(3, duplicates=0)), 10_000)
    await lab.emit_all(itertools.islice(good, 4_000))
    for what, (value, reason, field) in REFUSED.items():
        key = None if what in ("null value", "no bytes") else b"default:k"
        if value is None and key is None:
            key = b""
        place = await lab.put(value, key=key, headers=[("app", b"\xff\x00")], partition=1)
        places[place] = (value, reason, field, key)
    await lab.emit_all(good)

    counts = await lab.drain()
    assert (counts.stored, counts.duplicates, counts.rejected) == (10_000, 0, len(REFUSED))
    assert await lab.count("interactions") == 10_000

    found = {}
    for letter in await lab.letters():
        headers = dict(letter.headers)
        origin = int(headers[letters.PARTITION]), int(headers[letters.OFFSET])
        assert headers[letters.TOPIC].decode() == lab.settings.topic
        assert int(headers[letters.APPEND_MS]) <= letter.timestamp
        assert headers["app"] == b"\xff\x00"
        found[origin] = letter.value, headers[letters.REASON].decode(), headers[letters.FIELD].decode(), letter.key
    assert found == {tuple(place): expected for place, expected in places.items()}

    outcomes = await lab.rows("SELECT _partition, _offset, reason, field, namespace, interaction_id FROM outcomes")
    assert {row[:2]: row[2:4] for row in outcomes} == {tuple(place): each[1:3] for place, each in places.items()}
    unattributed = {"tombstone", "empty", "not_utf8", "not_json", "too_deep", "not_an_object"}
    assert all((row[4] == "") == (row[2] in unattributed) for row in outcomes)
    assert all(is_interaction_id(row[5]) for row in outcomes)


@pytest.mark.parametrize("header", [b"", b"\xff", b"x" * 129])
async def test_a_bad_namespace_header_is_rejected(lab: Lab, header: bytes) -> None:
    await lab.put(as_json(), headers=[("tally-namespace", header)])
    await lab.drain()
    assert await lab.rows("SELECT namespace, reason, field FROM outcomes") == [("", "bad_header", "tally-namespace")]


async def test_a_rejected_event_keeps_the_id_it_came_with(lab: Lab) -> None:
    minted = mint_id()
    await lab.put(as_json(position=-1, interaction_id=minted), headers=encode_headers("shop"))
    await lab.drain()
    assert await lab.rows("SELECT namespace, interaction_id FROM outcomes") == [("shop", minted)]


async def test_a_newer_schema_stops_the_worker_and_loses_nothing(lab: Lab) -> None:
    await lab.put(as_json(), headers=[("tally-schema", b"2")])
    with pytest.raises(Fatal, match="upgrade this consumer"):
        await lab.drain()
    assert await lab.count("outcomes") == 0


@pytest.mark.parametrize("crash_after", ["decide", "store", "send", "record"])
async def test_a_crash_between_any_two_steps_changes_nothing(
    lab: Lab, crash_after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step of the batch is cut off behind; the next run ends where an undisturbed one would have."""

    class Crashed(Exception):
        pass

    target = {"decide": "dedup.Deduplication", "store": "sink.Sink", "send": "letters.Letters", "record": "sink.Sink"}
    owner = _class(target[crash_after])
    real = getattr(owner, crash_after)

    async def then_crash(*args: Any) -> None:
        await real(*args)
        raise Crashed

    await lab.put(b"not json", partition=0)
    await lab.emit_all(itertools.islice(iter(Simulator(5, duplicates=0.3)), 2_000))
    monkeypatch.setattr(owner, crash_after, then_crash)
    with pytest.raises(Crashed):
        await lab.drain(batch_rows=700)
    monkeypatch.undo()
    await lab.drain(batch_rows=500)

    stored, outcomes = await lab.count("interactions"), await lab.count("outcomes")
    assert stored + outcomes == 2_001
    raw = await lab.rows("SELECT count(), uniqExact(_partition, _offset) FROM interactions")
    assert raw == [(stored, stored)], "no row was inserted twice"
    raw = await lab.rows("SELECT count(), uniqExact(_partition, _offset) FROM outcomes")
    assert raw == [(outcomes, outcomes)]
    keys = await lab.rows("SELECT count(), uniqExact(execution_id, feature_id, interaction_type) FROM interactions")
    assert keys == [(stored, stored)], "each tuple once"
    origins = {
        (dict(each.headers)[letters.PARTITION], dict(each.headers)[letters.OFFSET]) for each in await lab.letters()
    }
    assert origins == {(b"0", b"0")}, "written once or twice, it is one letter"


def _class(path: str) -> Any:
    import importlib

    module, _, name = path.partition(".")
    return getattr(importlib.import_module(f"consumers.{module}"), name)


async def test_stored_records_are_skipped_when_a_commit_was_lost(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    await lab.emit_all(itertools.islice(iter(Simulator(6)), 3_000))

    async def lose(*_args: Any) -> None:
        return None

    monkeypatch.setattr(Worker, "_commit", lose)
    first = await lab.drain(batch_rows=400)
    monkeypatch.undo()
    second = await lab.drain(batch_rows=300)
    assert first.stored + first.duplicates == 3_000
    assert (second.stored, second.duplicates, second.already_recorded) == (0, 0, 3_000)


async def test_an_insert_of_which_half_arrived_is_completed(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """An insert is not atomic across blocks: holes below the highest stored offset must be filled."""
    receipts = await lab.emit_all(itertools.islice(iter(Simulator(7, duplicates=0)), 1_000))

    async def lose(*_args: Any) -> None:
        return None

    monkeypatch.setattr(Worker, "_commit", lose)
    await lab.drain()
    monkeypatch.undo()
    await lab.database.command("ALTER TABLE interactions DELETE WHERE _offset % 3 = 1 SETTINGS mutations_sync = 2")
    missing = 1_000 - await lab.count("interactions")
    counts = await lab.drain(batch_rows=128)
    assert counts.stored == missing > 100
    ids = {row[0] for row in await lab.rows("SELECT interaction_id FROM interactions")}
    assert ids == {receipt.interaction_id for receipt in receipts}


async def test_a_topic_created_anew_is_not_mistaken_for_the_old(lab: Lab) -> None:
    old, _ = await lab.emit(click("a"), click("b"))
    await lab.drain()
    async with kafka.admin(lab.settings) as admin:
        await admin.delete_topics([lab.settings.topic])
    await _created_anew(lab)
    await lab.put(as_json("c"), partition=old.partition)
    with pytest.raises(Fatal, match="created anew"):
        await lab.drain(group=f"{lab.settings.group}-2")


async def _created_anew(lab: Lab) -> None:
    async def is_created() -> bool:
        try:
            await kafka.create_topics(lab.settings)
        except Fatal:
            return False  # the deletion is still under way
        return True

    await eventually_async(is_created)


async def test_imported_ids_are_looked_up_however_old_the_row(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the claims are gone, an import again is still found by its ids; a live event would not be."""
    minted, interaction = mint_id(), click()
    for _ in range(2):
        await lab.put(
            encode_value(interaction, minted), key=b"default:exec-1", headers=encode_headers("default", derived_id=True)
        )
        await lab.drain(key_prefix=f"{lab.settings.key_prefix}-{mint_id()}")
    assert await lab.rows("SELECT interaction_id FROM interactions") == [(minted,)]
    assert await lab.rows("SELECT interaction_id, duplicate_of FROM outcomes") == [(minted, minted)]


async def test_ids_that_foreign_producers_repeat_are_duplicates(lab: Lab) -> None:
    """Whether in one batch or later, with the same facts or others: the first record owns the id."""
    minted = mint_id()
    await lab.put(as_json("a", None, interaction_id=minted))
    await lab.put(as_json("b", None, interaction_id=minted))
    await lab.drain()
    await lab.put(as_json("c", "exec", interaction_id=minted))
    counts = await lab.drain()
    assert counts.duplicates == 1
    assert await lab.rows("SELECT feature_id FROM interactions FINAL") == [("a",)]
    assert await lab.rows("SELECT uniqExact(_offset), any(duplicate_of) FROM outcomes") == [(2, minted)]


async def test_two_rows_of_one_id_do_not_collapse(lab: Lab) -> None:
    """A producer that writes our headers and repeats an id breaks the contract, and still no event vanishes."""
    minted = mint_id()
    for feature in ("a", "b"):
        value = encode_value(click(feature), minted)
        await lab.put(value, key=b"default:exec-1", headers=encode_headers("default"))
    await lab.drain()
    assert await lab.count("interactions") == 2


async def test_one_import_twice_in_one_batch_stores_once(lab: Lab) -> None:
    minted = mint_id()
    for _ in range(2):
        value = encode_value(click(execution=None), minted)
        await lab.put(value, key=b"default:doc-1", headers=encode_headers("default", derived_id=True))
    counts = await lab.drain()
    assert (counts.stored, counts.duplicates) == (1, 1)


async def test_an_empty_execution_is_none(lab: Lab) -> None:
    await lab.emit(click(execution="", user_id="ada"), click(execution="", user_id="ada"))
    assert (await lab.drain()).stored == 2


async def test_records_that_expired_unread_are_fatal(lab: Lab) -> None:
    receipts = await lab.emit(*(click(f"doc-{number}") for number in range(10)))
    await lab.drain()
    await lab.emit(*(click(f"doc-{number}") for number in range(10, 20)))
    partition = TopicPartition(lab.settings.topic, receipts[0].partition)
    async with kafka.admin(lab.settings) as admin:
        await admin.delete_records({partition: RecordsToDelete(before_offset=15)})
    with pytest.raises(Fatal, match="5 offsets expired unread"):
        await lab.drain()


async def test_a_compressible_record_past_the_letters_own_bound_still_becomes_a_letter(lab: Lab) -> None:
    value = b'{"metadata": "' + b"x" * (3 * lab.settings.max_letter_bytes) + b'"}'
    async with kafka.producer(lab.settings.model_copy(update={"max_record_bytes": 64 * 1024 * 1024})) as foreign:
        await foreign.send_and_wait(lab.settings.topic, value=value, key=b"k")
    await lab.drain()
    (letter,) = await lab.letters()
    assert letter.value == value


@pytest.mark.parametrize("version", [b"", b"one"])
async def test_a_schema_header_that_is_no_number_is_rejected(lab: Lab, version: bytes) -> None:
    await lab.put(as_json(), headers=[("tally-schema", version)])
    await lab.drain()
    assert await lab.rows("SELECT reason, field FROM outcomes") == [("bad_header", "tally-schema")]


async def test_a_topic_of_rejects_stops_the_worker_before_it_is_drained(lab: Lab) -> None:
    for number in range(30):
        await lab.put(as_json(position=-1 if number % 2 else 0, execution=f"e{number}"), partition=0)
    with pytest.raises(TooManyRejects, match=r"15 of the last 30 records .* number_out_of_range position"):
        await lab.drain(reject_window=20)
    assert await lab.count("interactions") == await lab.count("outcomes") == len(await lab.letters()) == 0
    counts = await lab.drain(reject_window=20, accept_rejects=True)
    assert (counts.stored, counts.rejected) == (15, 15)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=20))
def test_the_ceiling_looks_at_the_last_records_only(batches: list[tuple[int, int]]) -> None:
    ceiling, seen = RejectCeiling(window=10), []
    rejection = Rejection("empty", "", "")
    for good, bad in batches:
        seen.append((good + bad, bad))
        last = next((seen[-n:] for n in range(1, len(seen) + 1) if sum(r for r, _ in seen[-n:]) >= 10), None)
        too_many = last is not None and 2 * sum(b for _, b in last) >= sum(r for r, _ in last)
        judged = Judged([None] * good, [Rejected(None, "", "", rejection)] * bad)  # type: ignore[list-item, arg-type]
        if too_many:
            with pytest.raises(TooManyRejects):
                ceiling.check(judged)
            return
        ceiling.check(judged)


async def test_a_topic_with_the_producers_clock_is_refused(lab: Lab) -> None:
    name = f"{lab.settings.topic}-create-time"
    async with kafka.admin(lab.settings) as admin:
        await admin.create_topics([NewTopic(name, 1, 1)])
    with pytest.raises(Fatal, match="=CreateTime: set it to LogAppendTime"):
        await lab.drain(topic=name)


async def test_missing_tables_and_topics_are_named(lab: Lab) -> None:
    with pytest.raises(Fatal, match="tally init"):
        await lab.drain(database="nowhere")
    with pytest.raises(Fatal, match="TALLY_TOPIC"):
        await lab.drain(topic="nowhere")
    with pytest.raises(Unavailable, match="TALLY_REDIS"):
        await Worker(
            lab.settings.model_copy(update={"redis": type(lab.settings.redis)("redis://127.0.0.1:1")}),
            instance=None,
            until_caught_up=True,
        ).run()


async def test_init_is_repeatable_and_refuses_a_newer_schema(lab: Lab) -> None:
    assert await migrate(lab.settings) == []
    await lab.database.command("INSERT INTO schema_migrations (version) VALUES (99)")
    with pytest.raises(Fatal, match="schema 99"):
        await migrate(lab.settings)
    with pytest.raises(Fatal, match="schema 99"):
        await lab.drain()


async def test_rebalances_lose_and_double_nothing(lab: Lab) -> None:
    """Workers join and leave while events come in; each event is stored or a duplicate exactly once."""
    await lab.emit_all(itertools.islice(iter(Simulator(8, duplicates=0.2)), 4_000))
    small = lab.settings.model_copy(update={"batch_rows": 50})
    workers = [Worker(small, instance=None, until_caught_up=False) for _ in range(3)]
    running = []
    for worker in workers:
        running.append(asyncio.create_task(worker.run()))
        await lab.emit_all(itertools.islice(iter(Simulator(worker_seed(worker), duplicates=0.2)), 500))
    workers[0].stop()
    await running[0]

    async def all_recorded() -> bool:
        return await lab.count("interactions") + await lab.count("outcomes") == 5_500

    await eventually_async(all_recorded)
    for worker in workers[1:]:
        worker.stop()
    counts = await asyncio.gather(*running)
    assert sum(each.stored + each.duplicates for each in counts) == 5_500
    raw = await lab.rows("SELECT count(), uniqExact(execution_id, feature_id, interaction_type) FROM interactions")
    assert raw[0][0] == raw[0][1] == sum(each.stored for each in counts)


def worker_seed(worker: Worker) -> int:
    return id(worker) % 1_000_000


async def test_a_worker_cannot_outwait_its_stop_deadline(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    await lab.emit(click())
    worker = Worker(lab.settings.model_copy(update={"stop_timeout_ms": 1_000}), instance=None, until_caught_up=False)

    async def hang(*_args: Any) -> None:
        worker.stop()
        await asyncio.Event().wait()

    monkeypatch.setattr(_class("sink.Sink"), "store", hang)
    with pytest.raises(Unavailable, match="TALLY_STOP_TIMEOUT_MS=1000"):
        await worker.run()
    monkeypatch.undo()
    assert (await lab.drain()).stored == 1


async def test_what_was_read_and_revoked_is_forgotten(lab: Lab) -> None:
    """Whoever gets the partitions reads it again; the batch in hand must not hold it any more."""
    await lab.emit(*(click(execution=f"e{number}") for number in range(40)))
    async with kafka.consumer(lab.settings, instance=None) as consumer:
        intake = Intake(consumer, lab.settings)
        consumer.subscribe([lab.settings.topic])
        read: set[int] = set()
        while len(read) < lab.settings.partitions:
            await intake.fill(asyncio.Event())
            batch = intake.take()
            read |= {part.partition for part in batch.slices}
        await consumer.seek_to_beginning()
        await intake.fill(asyncio.Event())
        revoked = [TopicPartition(lab.settings.topic, number) for number in (0, 1)]
        intake.forget(revoked)
        assert {part.partition for part in intake.take().slices} <= {2, 3}
        assert intake.take().slices == ()


events = st.builds(
    lambda partition, offset, mark: Event(
        partition,
        offset,
        0,
        0,
        "n",
        derive_foreign_id("t", partition, offset, mark),
        False,
        WireEvent("f", ["view"], 0),
    ),
    st.integers(0, 2),
    st.integers(0, 3),
    st.integers(0, 1),
)


@given(st.lists(events, max_size=4), st.lists(events, max_size=4))
def test_a_token_names_exactly_its_rows_in_their_order(one: list[Event], other: list[Event]) -> None:
    """A batch cut differently after a crash must get another token, or its further rows are swallowed."""
    assert (insert_token("t", one) == insert_token("t", other)) == (one == other)
    assert insert_token("t", one) != insert_token("u", one)


async def test_a_token_by_first_offset_would_swallow_rows(lab: Lab) -> None:
    """Why: the table takes the longer insert for the shorter one that it has seen."""
    rows = [[{"interaction_id": str(number), "timestamp": 0} for number in range(count)] for count in (1, 3)]
    schema = pa.schema({"interaction_id": pa.string(), "timestamp": pa.timestamp("ms", tz="UTC")})  # type: ignore[arg-type]
    for batch in rows:
        await lab.database.insert("interactions", pa.Table.from_pylist(batch, schema=schema), "partition 0 offset 0")
    assert await lab.count("interactions") == 1


def test_json_of_a_foreign_producer_needs_three_fields() -> None:
    assert set(json.loads(as_json())) == {"feature_id", "interaction_type", "position", "execution_id"}
