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
from producers.collector.bulk import MIN_EVENTS, Bulk, BulkOptions, encode_items, encode_whole
from schemas.wire import encode_headers

OPTIONS = BulkOptions(64 * 1024, 1_000, 3, "shop", encode_headers("shop"))
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


@given(st.lists(st.tuples(st.text(max_size=5), st.integers(0, 9)), min_size=MIN_EVENTS, max_size=MIN_EVENTS + 2))
def test_both_ways_give_the_same_records(drawn: list[tuple[str, int]]) -> None:
    events = [EVENT | {"execution_id": f"e{text}", "position": number} for text, number in drawn]
    whole = encode_whole(body_of(events), OPTIONS)
    single = encode_items([msgspec.Raw(json.dumps(each).encode()) for each in events], OPTIONS)
    assert whole is not None
    assert single is not None
    assert records_of(whole) == records_of(single)
    assert [value for _, _, value, _ in records_of(whole).values()] == events


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
def test_one_event_for_the_validator_leaves_the_batch_to_the_other_way(odd: dict[str, Any]) -> None:
    assert encode_whole(body_of([EVENT] * MIN_EVENTS), OPTIONS) is not None
    assert encode_whole(body_of([*[EVENT] * MIN_EVENTS, odd]), OPTIONS) is None


@pytest.mark.parametrize("count", [MIN_EVENTS - 1, OPTIONS.max_events + 1])
def test_batches_of_other_sizes_go_the_other_way(count: int) -> None:
    assert encode_whole(body_of([EVENT] * count), OPTIONS) is None
