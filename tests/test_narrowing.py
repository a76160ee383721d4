"""An unexpected error costs the record that causes it, and no other: it becomes a dead letter, the worker continues."""

import logging
from collections.abc import Callable, Iterator
from itertools import cycle, repeat
from typing import Any

import pytest

from consumers import narrowing
from consumers.assignment import Assignment
from consumers.claims import client as claims
from consumers.columns import interaction_rows
from consumers.dedup import Deduplication
from consumers.events import Events
from readers.audit import audit
from readers.deep_audit import deep_audit
from runtime.errors import Fatal, Restart
from runtime.metrics import INTERNAL_ERRORS
from schemas import letter
from schemas.identity import mint_id
from schemas.validator import validate
from tests.lab import Lab, Place, as_json, execution_on
from tests.test_poison import LONG, NARROWED

POISON = "poison"
ROUNDS = 12
ERRORS = (AssertionError, MemoryError, RecursionError, ValueError, OverflowError, KeyError, ZeroDivisionError)
Poisoning = Callable[[pytest.MonkeyPatch, Iterator[type[Exception]]], None]


def fail_in_validation(patch: pytest.MonkeyPatch, errors: Iterator[type[Exception]]) -> None:
    """Reading the value of a poisoned record raises."""

    def raising(value: bytes | None) -> Any:
        if value is not None and POISON.encode() in value:
            raise next(errors)
        return validate(value)

    patch.setattr("kernels.scanner.validate", raising)


def fail_in_deduplication(patch: pytest.MonkeyPatch, errors: Iterator[type[Exception]]) -> None:
    """Deciding about poisoned records raises, before anything is claimed."""
    real = Deduplication._decide_distinct

    async def decide(self: Deduplication, part: Any, group: Events, *rest: Any) -> Any:
        if any(event.user_id == POISON for event in group):
            raise next(errors)
        return await real(self, part, group, *rest)

    patch.setattr(Deduplication, "_decide_distinct", decide)


def fail_in_encoding(patch: pytest.MonkeyPatch, errors: Iterator[type[Exception]]) -> None:
    """Encoding the row of a poisoned event raises, after it has claimed its key."""

    def rows(topic: str, events: Events, deleted: Any = None) -> Any:
        if any(event.user_id == POISON for event in events):
            raise next(errors)
        return interaction_rows(topic, events, deleted)

    patch.setattr("consumers.sink.interaction_rows", rows)


POISONINGS = (fail_in_validation, fail_in_deduplication, fail_in_encoding)


def poison(execution: str) -> bytes:
    """A poisoned event. An escape in a key makes the scanner unsure, so the validator gets the event."""
    return as_json(execution=execution, user_id=POISON).replace(b"user_id", b"user\\u005fid")


async def put_traffic(lab: Lab) -> set[Place]:
    """Three partitions of stored, duplicate and rejected events; returns the places of the poisoned ones.

    After each poisoned event comes one with its key, which is therefore no duplicate.
    """
    values = list[tuple[bytes, int]]()
    for number in range(ROUNDS):
        for partition in range(3):
            execution = execution_on(partition, f"e{partition} {number}")
            if number % 5 == 2:
                values.append((poison(execution), partition))
            given = {"interaction_id": mint_id()} if number % 4 == 0 else {}
            values.append((as_json(execution=execution, **given), partition))
        values += [(as_json(execution=execution_on(0, f"e0 {number}")), 0), (b"not json", 3)]
    places = await lab.put_all(values)
    return {place for place, (value, _) in zip(places, values, strict=True) if POISON.encode() in value}


async def assert_only_these_are_letters(lab: Lab, poisoned: set[Place]) -> None:
    where = [{name: raw or b"" for name, raw in each.headers} for each in await lab.letters()]
    assert {
        Place(int(each[letter.PARTITION]), int(each[letter.OFFSET]))
        for each in where
        if each[letter.REASON] == b"internal_error"
    } == poisoned
    rows = await lab.rows("SELECT _partition, _offset FROM outcomes FINAL WHERE reason = 'internal_error'")
    assert {Place(*row) for row in rows} == poisoned
    assert await lab.rows("SELECT count(), uniqExact(execution_id) FROM interactions") == [(3 * ROUNDS,) * 2]
    assert await lab.rows("SELECT count() FROM outcomes FINAL WHERE verdict = 'duplicate'") == [(ROUNDS,)]
    assert await lab.rows("SELECT count() FROM outcomes FINAL WHERE reason = 'not_json'") == [(ROUNDS,)]
    assert all([each.balances async for each in audit(lab.settings, lab.database)])
    assert (await deep_audit(lab.settings, lab.database)).balances


@pytest.mark.parametrize("poisoning", POISONINGS)
@pytest.mark.parametrize("batch_rows", [1_000, 7])
async def test_only_the_records_that_raise_become_letters(
    lab: Lab, poisoning: Poisoning, batch_rows: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    poisoned = await put_traffic(lab)
    poisoning(monkeypatch, repeat(AssertionError))
    before = INTERNAL_ERRORS._value.get()
    with caplog.at_level(logging.ERROR):
        counts = await lab.drain(batch_rows=batch_rows)
    assert (counts.stored, counts.duplicates, counts.rejected) == (3 * ROUNDS, ROUNDS, ROUNDS + len(poisoned))
    assert counts.already_recorded == 0
    await assert_only_these_are_letters(lab, poisoned)
    assert INTERNAL_ERRORS._value.get() - before == len(poisoned)
    for place in poisoned:
        assert f"{lab.settings.topic}/{place.partition}/{place.offset} becomes a dead letter" in caplog.text


@pytest.mark.parametrize("poisoning", POISONINGS)
async def test_no_kind_of_error_ends_the_worker(
    lab: Lab, poisoning: Poisoning, monkeypatch: pytest.MonkeyPatch
) -> None:
    for error in ERRORS:
        execution = execution_on(0, error.__name__)
        await lab.put(poison(execution), partition=0)
        await lab.put(as_json(execution=execution), partition=0)
    poisoning(monkeypatch, cycle(ERRORS))
    counts = await lab.drain()
    assert (counts.stored, counts.rejected, counts.duplicates) == (len(ERRORS), len(ERRORS), 0)


@pytest.mark.parametrize("poisoning", POISONINGS)
async def test_a_recorded_verdict_is_final_when_a_commit_was_lost(
    lab: Lab, poisoning: Poisoning, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the fault is repaired by then, and the event could be stored."""

    async def lose(*_args: Any) -> None:
        return None

    poisoned = await put_traffic(lab)
    with monkeypatch.context() as losing:
        losing.setattr(Assignment, "commit", lose)
        with monkeypatch.context() as patch:
            poisoning(patch, repeat(ValueError))
            first = await lab.drain(batch_rows=50)
            second = await lab.drain(batch_rows=40)
        third = await lab.drain(batch_rows=30)
    assert (second.total, second.already_recorded) == (third.total, third.already_recorded) == (first.total,) * 2
    await assert_only_these_are_letters(lab, poisoned)


async def test_refused_rows_and_raising_records_of_one_group_become_letters(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches that are read again because of a refused row are narrowed to the same records."""
    await lab.database.command(NARROWED)
    fail_in_validation(monkeypatch, repeat(AssertionError))
    for number in range(20):
        metadata = LONG if number == 12 else None
        await lab.put(as_json(execution=execution_on(0, f"e{number}"), metadata=metadata), partition=0)
        if number in (5, 13):
            await lab.put(poison(execution_on(0, "p")), partition=0)
    counts = await lab.drain()
    assert (counts.stored, counts.rejected) == (19, 3)
    assert await lab.rows("SELECT reason, count() FROM outcomes GROUP BY reason ORDER BY reason") == [
        ("internal_error", 2),
        ("refused_by_table", 1),
    ]


async def test_a_claim_that_was_not_released_makes_no_duplicate(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """If Redis loses a release, the next owner of the partition does not rely on the claims."""

    async def lose(*_args: Any) -> None:
        return None

    fail_in_encoding(monkeypatch, repeat(AssertionError))
    monkeypatch.setattr(Deduplication, "release", lose)
    await lab.put(poison(execution_on(0, "p")), partition=0)
    assert (await lab.drain()).rejected == 1
    await lab.put(as_json(execution=execution_on(0, "p")), partition=0)
    assert (await lab.drain()).stored == 1


async def test_a_batch_too_large_for_memory_is_stored_in_parts(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def rows(topic: str, events: Events, deleted: Any = None) -> Any:
        if len(events) > 10:
            raise MemoryError
        return interaction_rows(topic, events, deleted)

    monkeypatch.setattr("consumers.sink.interaction_rows", rows)
    for number in range(50):
        await lab.put(as_json(execution=execution_on(number % 2, f"e{number}")), partition=number % 2)
    counts = await lab.drain()
    assert (counts.stored, counts.rejected, counts.already_recorded) == (50, 0, 0)
    assert await lab.count("interactions") == 50


async def test_a_process_out_of_memory_is_restarted_and_drops_nothing(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    await lab.put(poison(execution_on(0, "p")), partition=0)
    with monkeypatch.context() as patch:
        fail_in_validation(patch, repeat(MemoryError))
        patch.setattr(narrowing, "_has_memory", lambda: False)
        with pytest.raises(Restart, match=f"out of memory at {lab.settings.topic}/0/0; lower TALLY_BATCH_BYTES"):
            await lab.drain()
    counts = await lab.drain()
    assert (counts.stored, counts.rejected) == (1, 0)


@pytest.mark.parametrize("error", [ConnectionResetError, TimeoutError, BaseExceptionGroup])
async def test_store_errors_and_cancellation_do_not_create_letters(
    lab: Lab, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    raised = error("stopped", [KeyboardInterrupt()]) if error is BaseExceptionGroup else error()

    async def fail(*_args: Any) -> None:
        raise raised

    await lab.put(as_json(execution=execution_on(0, "e")), partition=0)
    with monkeypatch.context() as patch:
        patch.setattr(claims.Claims, "_claim", fail)
        with pytest.raises(error):
            await lab.drain()
    assert (await lab.drain()).stored == 1
    assert await lab.letters() == []


async def test_a_record_of_a_newer_schema_holds_its_partition_in_a_narrowed_batch(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records after it wait, in whichever half of the batch they are."""
    fail_in_validation(monkeypatch, repeat(AssertionError))
    for partition in (0, 1):
        await lab.put(as_json(execution=execution_on(partition, "before")), partition=partition)
    await lab.put(as_json(execution="newer"), headers=[("tally-schema", b"9")], partition=0)
    await lab.put(poison(execution_on(1, "p")), partition=1)
    for partition, count in ((0, 20), (1, 10)):  # whichever comes first, partition 0 is in both halves
        for number in range(count):
            await lab.put(as_json(execution=execution_on(partition, f"after {number}")), partition=partition)
    with pytest.raises(Fatal, match="newer schema"):
        await lab.drain()
    rows = await lab.rows("SELECT execution_id FROM interactions WHERE _partition = 0")
    assert rows == [(execution_on(0, "before"),)]
    assert await lab.rows("SELECT count() FROM interactions WHERE _partition = 1") == [(11,)]
    assert await lab.rows("SELECT _partition, _offset, reason FROM outcomes") == [(1, 1, "internal_error")]
