"""A batch that is encoded from its body gives the records of its events, or is left to the way of single events."""

import json
from typing import Any

import msgspec
import pytest
from aiokafka.record.default_records import DefaultRecordBatch
from hypothesis import given
from hypothesis import strategies as st

from producers.batches import EncodedBatch
from producers.collector.accepted import MAX_VERBATIM_BYTES
from producers.collector.bulk import MIN_EVENTS, Bulk, ScannedBatch, encode_bulk, scan_body, scan_items
from schemas.wire import encode_headers

MAX_BYTES, MAX_EVENTS = 64 * 1024, 1_000
EVENT: dict[str, Any] = {"feature_id": "f", "interaction_type": ["view"], "position": 0, "execution_id": "e"}


def body_of(events: list[Any]) -> bytes:
    return b'{"interactions":[%b]}' % b", ".join(json.dumps(each).encode() for each in events)


def records_of(bulk: Bulk) -> dict[int, tuple[Any, ...]]:
    """Partition, key, value without the id, and headers of each event, by index."""
    batches: list[list[Any]] = [
        list(DefaultRecordBatch(EncodedBatch(bulk.encoded, number).built(1, 2, 3)))
        for number in range(len(bulk.encoded.partitions))
    ]  # fmt: skip
    found = {}
    for row, (index, interaction_id) in enumerate(zip(bulk.indexes, bulk.ids, strict=True)):
        batch = int(bulk.encoded.batch_of[row])
        record = batches[batch][bulk.encoded.number_of[row]]
        value = json.loads(record.value)
        assert value.pop("interaction_id") == interaction_id
        found[index] = (int(bulk.encoded.partitions[batch]), record.key, value, record.headers)
    return found


def encoded(scanned: ScannedBatch | None) -> dict[int, tuple[Any, ...]]:
    assert scanned is not None
    return records_of(encode_bulk(scanned, 3, "shop", encode_headers("shop", deduplicate=False)))


def scanned_body(events: list[Any], max_bytes: int = MAX_BYTES) -> ScannedBatch | None:
    return scan_body(body_of(events), max_bytes, MAX_EVENTS)


@given(st.lists(st.tuples(st.text(max_size=5), st.integers(0, 9)), min_size=MIN_EVENTS, max_size=MIN_EVENTS + 2))
def test_body_and_items_give_the_same_records(drawn: list[tuple[str, int]]) -> None:
    events = [EVENT | {"execution_id": f"e{text}", "position": number} for text, number in drawn]
    of_body = encoded(scanned_body(events))
    assert of_body == encoded(scan_items([msgspec.Raw(json.dumps(each).encode()) for each in events], MAX_BYTES))
    assert [value for _, _, value, _ in of_body.values()] == events


@pytest.mark.parametrize(
    "odd",
    [
        EVENT | {"position": -1},
        EVENT | {"interaction_id": "int_018bcfe568007e4e9bfdc6597dd2fd19"},
        EVENT | {"metadata": {"text": "x" * MAX_VERBATIM_BYTES}},
        EVENT | {"unknown": 1},
        {},
    ],
)
def test_a_body_with_one_event_for_the_validator_is_left_to_the_parser(odd: dict[str, Any]) -> None:
    assert scanned_body([EVENT] * MIN_EVENTS) is not None
    assert scanned_body([*[EVENT] * MIN_EVENTS, odd]) is None


@pytest.mark.parametrize("count", [MIN_EVENTS - 1, MAX_EVENTS + 1])
def test_bodies_of_few_or_too_many_events_are_left_to_the_parser(count: int) -> None:
    assert scanned_body([EVENT] * count) is None


def test_bodies_with_an_event_above_the_bound_are_left_to_the_parser() -> None:
    size = len(json.dumps(EVENT))
    assert scanned_body([EVENT] * MIN_EVENTS, size) is not None
    assert scanned_body([EVENT] * MIN_EVENTS, size - 1) is None
