"""Records encoded by compiled code equal those of the Kafka client, and hold the events that were scanned."""

import json
from typing import Any

import numpy as np
from aiokafka.record.default_records import DefaultRecordBatch
from hypothesis import given
from hypothesis import strategies as st

from kernels.boundary import OutgoingEvents, encode_records, scan
from producers.batches import EncodedBatch, encode_header_fields
from schemas.identity import mint_id
from schemas.validator import validate
from schemas.wire import ValidEvent, encode_headers, partition_key

names = st.text(min_size=1, max_size=6) | st.sampled_from(["a", "é" * 120, '\\ "quoted"\n', "x" * 500])
events = st.fixed_dictionaries(
    {"feature_id": names, "interaction_type": st.just(["view"]), "position": st.integers(0, 9)},
    optional={"execution_id": names, "session_id": names, "user_id": names, "metadata": st.just({"a": "b" * 300})},
)


@given(st.lists(st.tuples(events, st.booleans(), st.integers(0, 2)), min_size=1, max_size=12), names, st.integers(1, 3))
def test_records_are_those_of_the_kafka_client(
    drawn: list[tuple[dict[str, Any], bool, int]], namespace: str, size: int
) -> None:
    """For events with and without escapes, on several partitions, in batches of about one, two or all events."""
    values = [json.dumps(event, ensure_ascii=escaped).encode() for event, escaped, _ in drawn]
    text, sizes = np.frombuffer(b"".join(values), np.uint8), np.array([len(value) for value in values])
    firsts = np.cumsum(sizes) - sizes
    columns, sure = scan(text, firsts, firsts + sizes)
    assert sure.all()
    ids, headers = mint_id.many(len(values)), encode_headers(namespace)
    outgoing = OutgoingEvents(
        text,
        np.stack([firsts, sizes], axis=1),
        columns.spans,
        np.frombuffer("".join(ids).encode(), np.uint8),
        np.array([partition for _, _, partition in drawn]),
    )
    batch_bytes = {1: 1, 2: 1_500, 3: 1 << 20}[size]
    found = encode_records(outgoing, f"{namespace}:".encode(), encode_header_fields(headers), batch_bytes)
    read = [
        list(DefaultRecordBatch(EncodedBatch(found, number).built(1, 2, 3)))
        for number in range(len(found.partitions))
    ]  # fmt: skip
    assert sum(map(len, read)) == len(values)
    for row, (value, interaction_id) in enumerate(zip(values, ids, strict=True)):
        batch, number = found.batch_of[row], found.number_of[row]
        record: Any = read[batch][number]
        validated = validate(value)
        assert isinstance(validated, ValidEvent)
        assert found.partitions[batch] == drawn[row][2]
        assert record.key == partition_key(namespace, validated.event)
        assert json.loads(record.value) == json.loads(value) | {"interaction_id": interaction_id}
        assert record.value.startswith(b'{"interaction_id":"%b",' % interaction_id.encode())
        assert record.headers == [(name, content) for name, content in headers]
        assert record.offset == number
    if size == 1:
        assert [len(batch) for batch in read] == [1] * len(values)
