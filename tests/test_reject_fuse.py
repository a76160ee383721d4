"""Invalid records of one namespace affect no other: its reject fuse trips, and its valid events are stored or held."""

import asyncio
import json
import logging
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY
from typer.testing import CliRunner

from consumers import reject_fuse
from consumers.batch import Batch, ValidatedBatch
from consumers.records import PlainRecord
from consumers.reject_fuse import MAX_NAMESPACES, PARTS, RejectFuses
from consumers.validation import Validation
from readers.audit import audit
from runtime import metrics
from runtime.settings import Settings
from schemas.wire import encode_headers
from tally.cli.app import app
from tests.crashes import crash_at
from tests.lab import Lab, as_json
from tests.test_validator import good_with
from tests.validating import NAMESPACE, all_records, validated

GOOD, GARBAGE = good_with(), b"no JSON"
HOLD = {"reject_policy": "hold", "reject_window": 20}

Sent = tuple[str, bytes]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Return settings of a topic with one partition, so that no event is misplaced."""
    return settings.model_copy(update={"partitions": 1})


async def send(lab: Lab, records: Iterable[Sent]) -> None:
    """Put values of namespaces on partition 0, in order, as a foreign producer would; many at a time."""
    sent = [
        await lab._raw.send(lab.settings.topic, value, key=b"k", headers=encode_headers(namespace), partition=0)
        for namespace, value in records
    ]
    await asyncio.gather(*sent)


def event(number: int, **fields: Any) -> bytes:
    """A valid event like no other."""
    return as_json(f"doc-{number}", f"exec-{number}", **fields)


def validated_of(headers: Iterable[tuple[tuple[str, bytes | None], ...]], value: bytes) -> ValidatedBatch:
    """Validate one value under each of these headers."""
    records = [PlainRecord(at, 1_800_000_000_000, None, value, each) for at, each in enumerate(headers)]
    return Validation("t", "default", 8).validate(Batch(all_records({3: records})))


def fuses(**settings: Any) -> RejectFuses:
    return RejectFuses(Settings(**settings))


def is_tripped(namespace: str) -> bool:
    """Return whether the metric reports a tripped fuse."""
    return REGISTRY.get_sample_value("tally_worker_reject_fuses_tripped", {"namespace": namespace}) == 1


async def all_balance(lab: Lab) -> bool:
    return all([each.balances async for each in audit(lab.settings, lab.database)])


async def test_garbage_of_one_namespace_does_not_stop_others(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    """12,000 garbage records among valid ones of the same and of two other namespaces: all valid events are stored."""
    valid = [(namespace, event(number)) for number in range(40) for namespace in ("bad", "one", "two")]
    records: list[Sent] = []
    for at, each in enumerate(valid):
        records += [each, *[("bad", GARBAGE)] * (100 if at < 120 else 0)]
    await send(lab, records)
    counts = await lab.drain()
    assert (counts.stored, counts.rejected) == (120, 12_000)
    stored = await lab.rows("SELECT namespace, count() FROM interactions GROUP BY namespace ORDER BY namespace")
    assert stored == [("bad", 40), ("one", 40), ("two", 40)]
    assert len(await lab.letters()) == 12_000
    assert await all_balance(lab)
    (tripped,) = (each for each in caplog.records if "fuse tripped" in each.getMessage())
    assert tripped.levelno == logging.ERROR
    assert "tripped for namespace 'bad'" in tripped.getMessage()
    assert "not_json" in tripped.getMessage()
    assert "valid events are stored as before (TALLY_REJECT_POLICY=drain)" in tripped.getMessage()
    assert is_tripped("bad")


async def test_held_events_are_stored_once_after_their_replay(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    valid = [(namespace, event(number)) for number in range(10) for namespace in ("held", "free")]
    await send(lab, [*[("held", GARBAGE)] * 40, *valid])
    counts = await lab.drain(**HOLD)
    assert (counts.stored, counts.rejected) == (10, 50)
    assert await lab.rows("SELECT DISTINCT namespace FROM interactions") == [("free",)]
    held = await lab.rows(
        "SELECT namespace, count(), uniqExact(interaction_id), any(execution_id != '') "
        "FROM outcomes WHERE reason = 'namespace_held' GROUP BY namespace"
    )
    assert held == [("held", 10, 10, True)]
    assert await all_balance(lab)

    for name, value in lab.settings.as_environment().items():
        monkeypatch.setenv(name, value)
    words = ["dlq", "replay", "--reason", "namespace_held", "--namespace", "held"]
    status = json.loads((await asyncio.to_thread(CliRunner().invoke, app, ["status", "--json"])).stdout)
    assert status["withheld"] == {"held": 10}
    for _ in range(2):
        done = await asyncio.to_thread(CliRunner().invoke, app, words)
        assert done.exit_code == 0, done.output
        await lab.drain(**HOLD)
    assert await lab.rows("SELECT namespace, count() FROM interactions FINAL GROUP BY namespace ORDER BY ALL") == [
        ("free", 10),
        ("held", 10),
    ]
    assert await all_balance(lab)


async def test_a_fuse_closes_by_itself(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    """Once less than half of the last records are rejected the same worker stores the namespace's events again."""
    garbage = [("closing", GARBAGE)] * 30
    await send(lab, [*garbage, *(("closing", event(number)) for number in range(60))])
    counts = await lab.drain(**HOLD, batch_rows=10)
    assert (counts.stored + counts.rejected, await lab.count("interactions")) == (90, counts.stored)
    ((held, last),) = await lab.rows("SELECT count(), max(_offset) FROM outcomes WHERE reason = 'namespace_held'")
    ((first,),) = await lab.rows("SELECT min(_offset) FROM interactions")
    assert 0 < held < 30
    assert last < first
    assert "fuse closed for namespace 'closing'" in caplog.text
    assert not is_tripped("closing")


async def test_a_held_event_loses_its_claim_of_an_earlier_run(lab: Lab) -> None:
    """A run ends before anything is stored: a repeat of the held event is not its duplicate."""
    await send(lab, [("held", event(1))])
    with crash_at("claimed"):
        await lab.drain()
    await send(lab, [("held", GARBAGE)] * 40)
    assert (await lab.drain(**HOLD)).rejected == 41
    await send(lab, [("held", event(1))])
    assert (await lab.drain(**HOLD)).stored == 1


async def test_a_held_event_without_a_recorded_outcome_is_decided_again(lab: Lab) -> None:
    """The event's dead letter exists already; a replay ignores it, because the event is stored."""
    await send(lab, [*[("held", GARBAGE)] * 40, ("held", event(1)), ("free", event(1))])
    with crash_at("lettered"):
        await lab.drain(**HOLD)
    assert await lab.count("interactions") == 0, "nothing is stored before the held events of its batch are recorded"
    counts = await lab.drain()
    assert (counts.stored, counts.rejected) == (2, 40)
    assert await all_balance(lab)


async def test_events_that_are_stored_already_are_not_held(lab: Lab) -> None:
    """A run died after it had stored them; the next one, whose fuse trips on them, has nothing to add."""
    await send(lab, [*(("held", event(number)) for number in range(3)), *[("held", GARBAGE)] * 40])
    with crash_at("stored"):
        await lab.drain()
    counts = await lab.drain(**HOLD)
    assert (counts.already_recorded, counts.stored, counts.rejected) == (3, 0, 40)
    assert await all_balance(lab)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=25))
def test_a_fuse_is_tripped_while_half_of_the_last_records_are_rejected(batches: list[tuple[int, int]]) -> None:
    """The last records are those of the fewest batches that fill the window."""
    of_worker, seen = fuses(reject_window=10), list[tuple[int, int]]()
    for good, bad in batches:
        of_worker.count(validated([GOOD] * good + [b""] * bad))
        seen += [(good + bad, bad)] if good + bad else []
        last = next((seen[-n:] for n in range(1, len(seen) + 1) if sum(r for r, _ in seen[-n:]) >= 10), None)
        expected = last is not None and 2 * sum(b for _, b in last) >= sum(r for r, _ in last)
        assert is_tripped(NAMESPACE) == expected
    metrics.REJECT_FUSES.clear()


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), max_size=400), st.integers(1, 2_000))
def test_a_window_covers_at_least_its_size_in_bounded_memory(counts: list[tuple[int, int]], size: int) -> None:
    window, records, rejected = reject_fuse._Window(size), 0, 0
    largest = max([size // PARTS, *(good + bad for good, bad in counts)])
    for good, bad in counts:
        window.add(good + bad, bad)
        records, rejected = records + good + bad, rejected + bad
        assert min(records, size) <= window.records <= size + largest
        assert 0 <= window.rejected <= window.records
        assert len(window._parts) <= 2 * PARTS + 3 + 2 * (size < PARTS) * size


OF_SHOP = ("tally-namespace", b"shop")


@pytest.mark.parametrize(
    ("headers", "value", "counted_for"),
    [
        ((OF_SHOP,), GARBAGE, "shop"),
        ((OF_SHOP,), b"\xff", "shop"),
        ((OF_SHOP, ("tally-origin-ms", b"x")), GOOD, "shop"),
        ((OF_SHOP,), event(1, position=-1), "shop"),
        ((), event(1, position=-1), "default"),
        ((), GARBAGE, ""),
        ((("tally-namespace", b"\xff"),), GARBAGE, ""),
        ((("tally-namespace", b""),), GOOD, ""),
        ((("tally-namespace", None),), GOOD, ""),
    ],
)
def test_a_rejection_is_counted_for_its_namespace(
    headers: tuple[tuple[str, bytes | None], ...], value: bytes, counted_for: str
) -> None:
    """Also if its outcome has no namespace, because its value cannot be read."""
    of_worker = fuses()
    of_worker.count(validated_of([headers] * 3, value))
    counted = {name: (window.records, window.rejected) for name, window in of_worker._windows.items()}
    assert counted == {counted_for: (3, 3)}


def test_the_number_of_tracked_namespaces_is_bounded() -> None:
    """The one that was not seen for longest is forgotten; its metric goes with it."""
    of_worker = fuses(reject_window=1)
    of_worker.count(validated_of([(("tally-namespace", b"first"),)], GARBAGE))
    assert is_tripped("first")
    names = [f"n{number}" for number in range(MAX_NAMESPACES)]
    of_worker.count(validated_of([(("tally-namespace", name.encode()),) for name in names], GARBAGE))
    assert len(of_worker._windows) == MAX_NAMESPACES
    assert not is_tripped("first")
    metrics.REJECT_FUSES.clear()
