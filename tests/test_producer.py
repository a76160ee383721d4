"""The producer: every acknowledged event is on the topic, in the format of `schemas/wire.py`."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiokafka.partitioner import murmur2
from pydantic import ValidationError

from deploy.embedded.stack import Stack
from producers.producer import NotAccepted, Producer
from producers.topic import TopicWriter
from runtime.errors import RecordRefused, SettingsError, Unavailable
from runtime.settings import Settings
from schemas.identity import id_time_ms
from schemas.interaction import NO_FEATURE_URI, Interaction
from tests.lab import Lab, ReadRecord, click, reading
from tests.validating import is_sure
from tests.waiting import eventually


async def test_a_receipt_names_the_place_of_the_record(lab: Lab) -> None:
    full = click(
        feature_uri="tally://text@v1",
        metadata={"n": 1, "ü": [1.5]},
        occurred_at=datetime(2026, 1, 2, 3, 4, 5, 678901),
        document_score=0.25,
    )
    with_uri, without = await lab.emit(full, click("doc-2"))
    async with reading(lab.settings, lab.settings.topic) as records:
        by_place: dict[tuple[int, int | None], ReadRecord] = {
            (record.partition, record.offset): record for record in records
        }
    record = by_place[with_uri.partition, with_uri.offset]
    assert record.value is not None
    value = json.loads(record.value)
    assert value == {
        "feature_id": "doc-1",
        "interaction_type": ["click"],
        "position": 0,
        "execution_id": "exec-1",
        "feature_uri": "tally://text@v1",
        "metadata": {"n": 1, "ü": [1.5]},
        "document_score": 0.25,
        "occurred_at": "2026-01-02T03:04:05.678Z",
        "interaction_id": with_uri.interaction_id,
    }
    assert is_sure(record.value) == [True]
    assert record.key == b"default:exec-1"
    assert murmur2(record.key) % lab.settings.partitions == record.partition
    assert dict(record.headers) == {"tally-namespace": b"default", "tally-schema": b"1"}
    assert record.timestamp_type == 1, "stamped by the broker"
    assert with_uri.timestamp == datetime.fromtimestamp(record.timestamp / 1000, UTC)
    assert abs(id_time_ms(with_uri.interaction_id) - record.timestamp) < 60_000
    assert (with_uri.warning, without.warning) == (None, NO_FEATURE_URI)


async def test_results_are_in_order_with_few_events_in_flight(lab: Lab) -> None:
    narrow = lab.settings.model_copy(update={"emit_in_flight": 3})
    most = 0

    async with Producer(narrow) as producer:
        given = 0

        async def source() -> AsyncIterator[Interaction]:
            nonlocal given
            for number in range(200):
                given += 1
                yield click(f"doc-{number}")

        got = []
        async for result in producer.emit_many(source()):
            assert not isinstance(result, NotAccepted)
            got.append(result.interaction_id)
            most = max(most, given - len(got))
    assert got == sorted(got)
    assert len(got) == 200
    assert most <= 3, "in flight, or just read"


async def test_an_error_of_the_source_is_raised_after_its_results(lab: Lab) -> None:
    def source() -> Iterator[Interaction]:
        yield click("a")
        yield click("b")
        raise ZeroDivisionError

    results = []
    async with Producer(lab.settings) as producer:
        with pytest.raises(ZeroDivisionError):
            async for result in producer.emit_many(source()):
                results.append(result)  # noqa: PERF401  (a comprehension would lose what came before the error)
    assert [type(result).__name__ for result in results] == ["Receipt", "Receipt"]


async def test_a_record_too_large_is_refused_alone(lab: Lab) -> None:
    tight = lab.settings.model_copy(update={"max_record_bytes": 64 * 1024})
    large = click(metadata={"a": "x" * 60_000}, query_snapshot={"a": "x" * 60_000})
    async with Producer(tight) as producer:
        results = [result async for result in producer.emit_many([click("a"), large, click("b")])]
        kinds = [type(result).__name__ for result in results]
        assert kinds == ["Receipt", "NotAccepted", "Receipt"]
        with pytest.raises(RecordRefused):
            await producer.emit(large)


async def test_emit_times_out_when_the_broker_stops_responding(lab: Lab, stack: Stack) -> None:
    impatient = lab.settings.model_copy(update={"delivery_timeout_ms": 1_000})
    async with Producer(impatient) as producer:
        await producer.emit(click("before"))
        status = Path(f"/proc/{stack.pid('kafka')}/stat")
        os.kill(stack.pid("kafka"), signal.SIGSTOP)
        try:
            eventually(lambda: status.read_text().rpartition(")")[2].split()[0] == "T")
            with pytest.raises(Unavailable, match="did not acknowledge within 1000 ms"):
                await producer.emit(click("during"))
        finally:
            os.kill(stack.pid("kafka"), signal.SIGCONT)
        assert (await producer.emit(click("after"))).offset


async def test_a_cancelled_emit_cancels_no_other(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both records are in one batch, whose outcome is cancelled for neither."""
    send, packed = TopicWriter.send, asyncio.Event()

    async def note(writer: TopicWriter, records: Any) -> Any:
        found = await send(writer, records)
        packed.set()
        return found

    monkeypatch.setattr(TopicWriter, "send", note)
    async with Producer(lab.settings) as producer:
        cancelled, other = [asyncio.create_task(producer.emit(click(name))) for name in ("doc-1", "doc-2")]
        await packed.wait()
        await asyncio.sleep(0)
        cancelled.cancel()
        assert (await other).offset == 1
    assert cancelled.cancelled()


async def test_a_field_that_the_model_lacks_is_left_to_the_validator(lab: Lab) -> None:
    """Only pydantic's unchecked copies have one. It costs neither its neighbours nor the stream."""
    odd = click("doc-1").model_copy(update={"positon": 1})
    await lab.emit(click("doc-0"), odd, click("doc-2"))
    counts = await lab.drain()
    assert (counts.stored, counts.rejected) == (2, 1)


async def test_items_that_cannot_be_encoded_are_refused_alone(lab: Lab) -> None:
    incomplete: dict[str, Any] = {"position": 0}
    odd: list[Any] = [
        click().model_copy(update={"execution_id": "\ud800"}),
        click().model_copy(update={"occurred_at": "yesterday"}),
        click(metadata={"a": {None: 1}}),
        Interaction.model_construct(**incomplete),
        None,
        {"feature_id": "doc-1"},
    ]
    items = [each for number, item in enumerate(odd) for each in (click(f"doc-{number}"), item)]
    async with Producer(lab.settings) as producer:
        results = [each async for each in producer.emit_many(items)]
        with pytest.raises(RecordRefused, match="cannot be encoded"):
            await producer.emit(odd[0])
    assert [isinstance(each, NotAccepted) for each in results] == [False, True] * len(odd)
    assert [each.interaction for each in results if isinstance(each, NotAccepted)] == odd
    assert (await lab.drain()).stored == len(odd)


async def test_results_do_not_wait_for_a_source_that_pauses(lab: Lab) -> None:
    """The first result is there before the source gives its second item: `tail -f | tally emit -` works."""
    acknowledged = asyncio.Event()

    async def source() -> AsyncIterator[Interaction]:
        yield click("first")
        async with asyncio.timeout(30):
            await acknowledged.wait()
        yield click("second")

    async with Producer(lab.settings) as producer:
        results = 0
        async for result in producer.emit_many(source()):
            assert not isinstance(result, NotAccepted)
            acknowledged.set()
            results += 1
    assert results == 2


class _Text(str):
    __slots__ = ()


class _Score(float):
    __slots__ = ()


async def test_values_of_subclassed_types_are_encoded_and_accepted(lab: Lab) -> None:
    odd = click(
        feature=_Text("doc-1"),
        document_score=_Score(0.5),
        metadata={"a": [1e-5] * 10_000, "b": _Score(1.5), _Text("c"): None},
    )
    await lab.emit(odd)
    assert (await lab.drain()).stored == 1


async def test_an_unreachable_broker_is_named() -> None:
    with pytest.raises(Unavailable, match="TALLY_KAFKA"):
        async with Producer(Settings(kafka="127.0.0.1:1", connect_timeout_ms=1000)):
            pass


async def test_without_a_stack_the_missing_setting_is_named(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALLY_DATA_DIR", str(tmp_path))
    with pytest.raises(SettingsError, match="TALLY_KAFKA is not set"):
        async with Producer():
            pass


async def test_a_bad_namespace_is_refused(lab: Lab) -> None:
    async with Producer(lab.settings) as producer:
        for namespace in ("ü" * 65, "x" * 129):
            with pytest.raises(ValueError, match="1 to 128 bytes"):
                await producer.emit(click(), namespace=namespace)


@pytest.mark.parametrize(
    "wrong",
    [
        {"position": "3"},
        {"metadata": {"a": float("nan")}},
        {"metadata": {"a": object()}},
        {"metadata": {"a": "x" * 65536}},
        {"occurred_at": datetime(1969, 1, 1)},
        {"occurred_at": datetime(2262, 1, 1, tzinfo=UTC) + timedelta(0)},
        {"feature": "\ud800"},
        {"colour": "red"},
    ],
)
def test_an_invalid_interaction_cannot_be_created(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        click(**wrong)  # type: ignore[arg-type]
