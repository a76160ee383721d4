"""The consumer: each record ends stored, duplicate or rejected, with all its fields."""

import itertools
import json
from datetime import UTC, datetime, timedelta

import pytest

from consumers.worker import Worker
from producers.producer import Producer
from producers.simulation.simulator import Simulator
from readers.audit import audit
from runtime import kafka
from runtime.errors import Fatal, Unavailable
from runtime.migrate import migrate
from runtime.topic_settings import change_topic_settings
from schemas import letter
from schemas.identity import derive_foreign_id, is_interaction_id, mint_id
from schemas.wire import encode_headers, encode_value
from tests.http_lab import consuming
from tests.lab import Lab, as_json, click, executions_on
from tests.test_validator import REFUSED
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
        "",
        1,
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


async def test_namespaces_are_deduplicated_separately(lab: Lab) -> None:
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


async def test_each_invalid_event_among_valid_ones_becomes_a_letter(lab: Lab) -> None:
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
    for each in await lab.letters():
        headers = dict(each.headers)
        origin = int(headers[letter.PARTITION]), int(headers[letter.OFFSET])
        assert headers[letter.TOPIC].decode() == lab.settings.topic
        assert int(headers[letter.APPEND_MS]) <= each.timestamp
        assert headers["app"] == b"\xff\x00"
        found[origin] = each.value, headers[letter.REASON].decode(), headers[letter.FIELD].decode(), each.key
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


async def test_a_rejected_event_keeps_its_id(lab: Lab) -> None:
    minted = mint_id()
    await lab.put(as_json(position=-1, interaction_id=minted), headers=encode_headers("shop"))
    await lab.drain()
    assert await lab.rows("SELECT namespace, interaction_id FROM outcomes") == [("shop", minted)]


async def test_imported_ids_are_looked_up_at_any_age(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
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
    """The first record owns the id, for repeats in the same batch or later, with the same fields or others."""
    minted, executions = mint_id(), executions_on(0)
    await lab.put(as_json("a", next(executions), interaction_id=minted))
    await lab.put(as_json("b", next(executions), interaction_id=minted))
    await lab.drain()
    await lab.put(as_json("c", next(executions), interaction_id=minted))
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


async def test_a_row_imported_twice_in_one_batch_is_stored_once(lab: Lab) -> None:
    minted = mint_id()
    for _ in range(2):
        value = encode_value(click(execution=None), minted)
        await lab.put(value, key=b"default:doc-1", headers=encode_headers("default", derived_id=True))
    counts = await lab.drain()
    assert (counts.stored, counts.duplicates) == (1, 1)


async def test_an_empty_execution_counts_as_missing(lab: Lab) -> None:
    await lab.emit(click(execution="", user_id="ada"), click(execution="", user_id="ada"))
    assert (await lab.drain()).stored == 2


async def test_a_compressible_record_above_the_letter_size_limit_becomes_a_letter(lab: Lab) -> None:
    value = b'{"metadata": "' + b"x" * (3 * lab.settings.max_dead_letter_bytes) + b'"}'
    async with kafka.producer(lab.settings.model_copy(update={"max_record_bytes": 64 * 1024 * 1024})) as foreign:
        await foreign.send_and_wait(lab.settings.topic, value=value, key=b"k")
    await lab.drain()
    (only,) = await lab.letters()
    assert only.value == value


@pytest.mark.parametrize("version", [b"", b"one"])
async def test_a_schema_header_that_is_not_a_number_is_rejected(lab: Lab, version: bytes) -> None:
    await lab.put(as_json(), headers=[("tally-schema", version)])
    await lab.drain()
    assert await lab.rows("SELECT reason, field FROM outcomes") == [("bad_header", "tally-schema")]


async def test_a_topic_with_producer_times_is_refused(lab: Lab) -> None:
    async with kafka.admin(lab.settings) as admin:
        await change_topic_settings(admin, lab.settings.topic, message_timestamp_type="CreateTime")
    with pytest.raises(Fatal, match="=CreateTime: set it to LogAppendTime"):
        await lab.drain()


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
    await lab.database.command("INSERT INTO schema_migrations (version, oldest) VALUES (99, 99)")
    with pytest.raises(Fatal, match="schema 99"):
        await migrate(lab.settings)
    with pytest.raises(Fatal, match="schema 99"):
        await lab.drain()


async def test_processes_run_and_restart_after_tables_are_migrated(lab: Lab) -> None:
    """A rolling upgrade: newer tables first, then one process after another."""
    async with consuming(lab.settings):
        await lab.emit(click("before"))
        await lab.database.command("ALTER TABLE interactions ADD COLUMN newer String DEFAULT 'x'")
        await lab.database.command("ALTER TABLE outcomes ADD COLUMN newer String DEFAULT 'x'")
        await lab.database.command("INSERT INTO schema_migrations (version, oldest) VALUES (99, 5)")
        await lab.emit(click("after"), click("after"))

        async def are_stored() -> bool:
            return (await lab.count("interactions"), await lab.count("outcomes")) == (2, 1)

        await eventually_async(are_stored)
    await lab.emit(click("started again"))
    assert (await lab.drain()).stored == 1
    assert await migrate(lab.settings) == []
    parts = [each async for each in audit(lab.settings, lab.database)]
    assert all(each.balances for each in parts)


def test_json_of_a_foreign_producer_needs_three_fields() -> None:
    assert set(json.loads(as_json())) == {"feature_id", "interaction_type", "position", "execution_id"}


async def test_an_idempotency_key_replaces_a_missing_execution(lab: Lab) -> None:
    async with Producer(lab.settings) as producer:
        first = await producer.emit(click(execution=None), idempotency_key="k1")
        again = await producer.emit(click("doc-2", execution=None, user_id="ada"), idempotency_key="k1")
        await producer.emit(click(execution=None), idempotency_key="k2")
        await producer.emit(click(execution=None), idempotency_key="k1", namespace="other")
        await producer.emit(click(), idempotency_key="k1")
        await producer.emit(click("doc-3"), idempotency_key="k1")
    await lab.drain()
    assert await lab.count("interactions") == 5
    assert await lab.rows("SELECT interaction_id, duplicate_of FROM outcomes") == [
        (again.interaction_id, first.interaction_id)
    ]


@pytest.mark.parametrize("name", ["tally-idempotency-key", "tally-origin-ms", "tally-moved-from"])
@pytest.mark.parametrize("value", [b"", b"\xff", b"9" * 513, None])
async def test_an_invalid_tally_header_is_rejected(lab: Lab, name: str, value: bytes | None) -> None:
    await lab.put(as_json(), headers=[(name, value)])
    await lab.drain()
    assert await lab.rows("SELECT reason, field FROM outcomes") == [("bad_header", name)]
