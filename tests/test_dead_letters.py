"""Dead letters can be listed, shown, repaired and replayed; two replays store an event once."""

import json
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from readers.audit import audit
from readers.lookup import Lookups
from schemas.event_time import END_MS, from_epoch_ms
from schemas.identity import derive_replay_id, mint_id
from schemas.letter import APPEND_MS, OFFSET, PARTITION, Letter, Origin, read_letter, write_headers
from schemas.merge_patch import merge_patch
from schemas.outcome import RejectedFor, Stored
from schemas.wire import encode_headers
from tally.cli.app import app
from tally.dead_letters.reading import Selection, read_letters
from tally.dead_letters.replay import ReplayProgress, replay
from tests.chaos.traffic import LONG, NARROWED
from tests.crashes import crash_at
from tests.lab import Lab, as_json, click

BAD = as_json("doc-1", "exec-1", position=-1)


async def selected(lab: Lab, **chosen: Any) -> list[Letter]:
    return [letter async for letter in read_letters(lab.settings, Selection(**chosen))]


async def replayed(lab: Lab, **more: Any) -> ReplayProgress:
    return [done async for done in replay(lab.settings, lab.database, Selection(), **more)][-1]


async def test_a_repaired_letter_is_stored_once_after_several_replays(lab: Lab) -> None:
    rejected_id = mint_id()
    headers = encode_headers("shop")
    value = as_json("doc-1", "exec-1", position="first", interaction_id=rejected_id, metadata={"n": 1})
    place = await lab.put(value, key=b"shop:exec-1", headers=headers)
    await lab.drain()
    (letter,) = await selected(lab)
    assert letter.origin == Origin(lab.settings.topic, *place)

    assert (await replayed(lab)).passing == 0
    dry = await replayed(lab, dry_run=True, patch={"position": 1})
    assert (dry.read, dry.passing, dry.failing.total()) == (1, 1, 0)
    await lab.drain()
    assert await lab.count("interactions") == 0, "a dry run puts nothing anywhere"

    for _ in range(2):
        assert (await replayed(lab, patch={"position": 1})).passing == 1
    counts = await lab.drain()
    assert (counts.stored, counts.duplicates) == (1, 1)
    again = await replayed(lab, patch={"position": 1, "execution_id": "another"}, as_namespace="other")
    assert (again.passing, again.settled) == (0, 1), "it is stored, in whatever partition and namespace"

    new_id = derive_replay_id(*letter.origin, letter.append_ms)
    ((stored_id, position, metadata, event_ms),) = await lab.rows(
        "SELECT interaction_id, position, metadata, _event_time_ms FROM interactions WHERE namespace = 'shop'"
    )
    assert (stored_id, position, metadata, event_ms) == (new_id, 1, '{"n": 1}', letter.append_ms)
    lookups = Lookups(lab.database, 10)
    outcome = await lookups.get("shop", rejected_id)
    assert isinstance(outcome, RejectedFor)
    assert (outcome.reason, outcome.replayed_as) == ("wrong_type", new_id)
    assert isinstance(await lookups.get("shop", new_id), Stored)
    assert all([each.balances async for each in audit(lab.settings, lab.database)])


async def test_a_replayed_letter_is_deduplicated_at_its_original_time(lab: Lab) -> None:
    """A client sent the repaired event at once and it is stored: the letter, replayed much later, is its duplicate."""
    await lab.put(BAD, key=b"default:exec-1")
    (first,) = await lab.emit(click())
    await lab.drain()
    await lab.database.command(
        "ALTER TABLE interactions UPDATE timestamp = timestamp - INTERVAL 1 DAY WHERE 1 SETTINGS mutations_sync = 2"
    )
    await replayed(lab, patch={"position": 0})
    await lab.drain(key_prefix=f"{lab.settings.key_prefix}-much-later")
    rows = await lab.rows("SELECT duplicate_of FROM outcomes WHERE verdict = 'duplicate'")
    assert rows == [(first.interaction_id,)]


async def test_a_letter_of_another_time_is_not_a_duplicate(lab: Lab) -> None:
    await lab.put(BAD, key=b"default:exec-1")
    await lab.drain()
    (letter,) = await selected(lab)
    past = from_epoch_ms(letter.append_ms - lab.settings.dedup_window_ms)
    await lab.emit(click(occurred_at=past))
    await replayed(lab, patch={"position": 0})
    assert (await lab.drain()).stored == 2


async def test_letters_are_selected_by_filters(lab: Lab) -> None:
    await lab.put(BAD, headers=encode_headers("one"))
    await lab.put(as_json(extra=1), headers=encode_headers("two"))
    await lab.put(b"not json", headers=encode_headers("two"))
    await lab.drain()
    everything = await selected(lab)
    assert len(everything) == 3
    newest = max(letter.append_ms for letter in everything)

    async def reasons(**chosen: Any) -> set[str]:
        return {letter.reason for letter in await selected(lab, **chosen)}

    assert await reasons(reason="not_json") == {"not_json"}
    assert await reasons(field="extra") == {"unknown_field"}
    assert await reasons(namespace="one") == {"number_out_of_range"}
    assert await reasons(namespace="") == {"not_json"}
    assert await reasons(since=from_epoch_ms(newest + 1)) == set()
    assert len(await reasons(until=from_epoch_ms(newest + 1))) == 3
    since = from_epoch_ms(newest) - timedelta(hours=1)
    assert len(await reasons(since=since)) == 3
    assert await reasons(origins=frozenset([everything[0].origin])) == {everything[0].reason}


async def test_a_letter_written_twice_is_listed_once(lab: Lab) -> None:
    await lab.put(BAD)
    with crash_at("lettered"):
        await lab.drain()
    await lab.drain()
    assert len(await lab.letters()) == 2
    assert len(await selected(lab)) == 1


async def test_a_letter_of_a_replay_keeps_its_original_event_time(lab: Lab) -> None:
    """The table refuses the replayed event and accepts it later: stored once, with its original time as event time."""
    await lab.put(BAD, key=b"default:exec-1")
    await lab.drain()
    (letter,) = await selected(lab)
    await lab.database.command(NARROWED)
    await replayed(lab, patch={"position": 0, "metadata": LONG})
    assert (await lab.drain()).rejected == 1
    await lab.database.command("ALTER TABLE interactions MODIFY COLUMN metadata String")
    assert (await replayed(lab, patch={"position": 0})).passing == 2
    counts = await lab.drain()
    assert (counts.stored, counts.duplicates) == (1, 1)
    assert await lab.rows("SELECT _event_time_ms FROM interactions") == [(letter.append_ms,)]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (APPEND_MS, b"9" * 22),
        (APPEND_MS, b"%d" % END_MS),
        (PARTITION, b"-1"),
        (PARTITION, b"%d" % 2**31),
        (OFFSET, b"%d" % 2**63),
        (OFFSET, b"1_0"),
        (OFFSET, "\u0661".encode()),
        (OFFSET, None),
    ],
)
async def test_a_foreign_record_among_the_letters_is_skipped(lab: Lab, name: str, content: bytes | None) -> None:
    await lab.put(BAD)
    await lab.drain()
    (letter,) = await selected(lab)
    forged = dict(write_headers(letter)) | {name: content}
    await lab.put(BAD, headers=list(forged.items()), topic=lab.settings.dead_letter_topic_name)
    assert await selected(lab) == [letter]
    assert (await replayed(lab, dry_run=True)).read == 1


@pytest.mark.parametrize("origin", [b"9" * 5_000, b"-1", b"\xb2", b"", b"9" * 15])
async def test_a_letter_with_an_invalid_origin_time_is_replayed_at_its_append_time(lab: Lab, origin: bytes) -> None:
    interaction_id = mint_id()
    headers = [*encode_headers("shop", derived_id=True), ("tally-origin-ms", origin)]
    await lab.put(as_json("doc-1", "exec-1", interaction_id=interaction_id), key=b"shop:exec-1", headers=headers)
    await lab.drain()
    (letter,) = await selected(lab)
    assert letter.reason == "bad_header"
    assert (await replayed(lab)).passing == 1
    await lab.drain()
    assert await lab.rows("SELECT _event_time_ms FROM interactions") == [(letter.append_ms,)]


async def test_an_unreadable_namespace_must_be_replaced(lab: Lab) -> None:
    await lab.put(as_json(), headers=[("tally-namespace", b"\xff")])
    await lab.drain()
    refused = await replayed(lab, dry_run=True)
    assert [why.split()[0] for why in refused.failing] == ["bad_header"]
    await replayed(lab, as_namespace="shop")
    await lab.drain()
    assert await lab.rows("SELECT namespace FROM interactions") == [("shop",)]


async def test_a_letter_keeps_all_bytes_of_its_record(lab: Lab) -> None:
    value, header = b"\xff\xfe" * 500_000, b"\x00\xff"
    await lab.put(value, key=b"\xff", headers=[("app", header), ("tally-letter-reason", b"mine")])
    await lab.drain()
    (letter,) = await selected(lab)
    assert (letter.key, letter.value) == (b"\xff", value)
    assert letter.headers == (("app", header), ("tally-letter-reason", b"mine"))


letters = st.builds(
    Letter,
    st.builds(Origin, st.text("ab.-", min_size=1), st.integers(0, 9), st.integers(0, 2**62)),
    st.integers(0, 2**40),
    st.text(),
    st.text(),
    st.text(),
    st.text(),
    st.text(),
    st.none() | st.binary(),
    st.none() | st.binary(),
    st.lists(st.tuples(st.text(), st.binary())).map(tuple),
)


@given(letters)
def test_a_written_letter_is_read_back(letter: Letter) -> None:
    key = b"" if letter.key is None and letter.value is None else letter.key
    assert read_letter(key, letter.value, write_headers(letter)) == letter


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)
objects = st.dictionaries(st.text(max_size=3), json_values, max_size=4)


def by_the_rfc(target: Any, patch: Any) -> Any:
    """RFC 7396, section 2, word for word."""
    if not isinstance(patch, dict):
        return patch
    target = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            target.pop(name, None)
        else:
            target[name] = by_the_rfc(target.get(name), value)
    return target


@given(objects, objects)
def test_a_patch_merges_by_the_rfc(target: dict[str, Any], patch: dict[str, Any]) -> None:
    assert json.loads(merge_patch(json.dumps(target).encode(), patch)) == by_the_rfc(target, patch)


def test_a_patch_leaves_the_other_bytes_unchanged() -> None:
    target = b'{"n": 1.10, "big": 12345678901234567890123, "in": {"x": 1e2, "y": 1}}'
    assert merge_patch(target, {"in": {"y": 2}}) == b'{"n":1.10,"big":12345678901234567890123,"in":{"x":1e2,"y":2}}'


@pytest.fixture
def run(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Awaitable[Any]]:
    """Run a `tally dlq` command as a shell would, on this test's topic."""
    import asyncio

    for name, value in lab.settings.as_environment().items():
        monkeypatch.setenv(name, value)

    async def invoke(*words: str) -> Any:
        result = await asyncio.to_thread(CliRunner().invoke, app, ["dlq", *words])
        assert result.exit_code == 0, result.output
        return [json.loads(line) for line in result.stdout.splitlines()]

    return invoke


async def test_the_commands_list_show_and_replay_letters(lab: Lab, run: Callable[..., Awaitable[Any]]) -> None:
    place = await lab.put(b'{"\xff": 1}')
    await lab.put(BAD)
    await lab.drain()
    listed = await run("list", "--json")
    assert {each["reason"] for each in listed} == {"not_utf8", "number_out_of_range"}
    origin = f"{lab.settings.topic}/{place.partition}/{place.offset}"
    ((shown),) = await run("show", origin)
    assert (shown["origin"], shown["value_base64"]) == (origin, "eyL/IjogMX0=")
    (dry,) = await run("replay", "--dry-run", "--json", "--patch", '{"position": 3}')
    assert (dry["letters"], dry["would_pass"], dry["still_rejected"]) == (2, 1, 1)
    (real,) = await run("replay", "--json", "--reason", "number_out_of_range", "--patch", '{"position": 3}')
    assert (real["letters"], real["replayed"]) == (1, 1)
    await lab.drain()
    assert await lab.rows("SELECT position FROM interactions") == [(3,)]


async def test_a_replayed_event_stays_exempt_from_deduplication(lab: Lab) -> None:
    await lab.emit(click("doc-1", "exec-1"))
    await lab.put(BAD, key=b"default:exec-1", headers=encode_headers("default", deduplicate=False))
    await lab.drain()
    assert (await replayed(lab, patch={"position": 1})).passing == 1
    counts = await lab.drain()
    assert (counts.stored, counts.duplicates) == (1, 0)
