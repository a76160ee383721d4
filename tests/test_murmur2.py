"""The compiled murmur2 equals Kafka's, and the hash of a scanned event is that of its partition key."""

import msgspec
import numpy as np
from aiokafka.partitioner import murmur2 as kafkas_murmur2
from hypothesis import given
from hypothesis import strategies as st

from kernels.scan_keys import hash_partition_keys, murmur2
from kernels.scanner import scan_or_validate
from producers.partitions import partition_of
from schemas.validator import validate
from schemas.wire import ValidEvent, partition_key


@given(st.binary(max_size=80))
def test_hashes_equal_those_of_the_kafka_client(text: bytes) -> None:
    """Bytes that follow the text do not count."""
    padded = text + b"something else".ljust(4 + -(len(text) + 4) % 4 + 12)
    assert murmur2(np.frombuffer(padded[: len(padded) // 4 * 4], np.uint32).copy(), len(text)) == kafkas_murmur2(text)


def test_hashes_equal_those_of_the_java_client() -> None:
    """Values of the Java client's own test (UtilsTest.testMurmur2), as unsigned numbers."""
    known = {b"21": -973932308, b"foobar": -790332482, b"a-little-bit-long-string": -985981536, b"abc": 479470107}
    for text, expected in known.items():
        words = np.frombuffer(text.ljust((len(text) // 4 + 1) * 4, b"\xff"), np.uint32).copy()
        assert murmur2(words, len(text)) == expected & 0xFFFFFFFF


names = st.text(max_size=5) | st.sampled_from(["", "a", "é" * 200, '\\ "quoted"\n', "x" * 512])
maybe = st.none() | names
events = st.fixed_dictionaries(
    {"feature_id": names.filter(bool), "interaction_type": st.just(["view"]), "position": st.just(0)},
    optional={"execution_id": maybe, "session_id": maybe, "user_id": maybe},
)
heads = st.tuples(names.filter(bool), st.none() | names)


@given(
    st.lists(st.tuples(events, st.integers(0, 2), st.booleans()), max_size=5), st.lists(heads, min_size=3, max_size=3)
)
def test_an_event_and_its_partition_key_have_the_same_hash(
    drawn: list[tuple[dict[str, object], int, bool]], known: list[tuple[str, str | None]]
) -> None:
    """Escaped or plain, with any of its fields: equal to `partition_key` and Kafka's partitioner."""
    values = [msgspec.json.encode(event) if plain else _escaped(event) for event, _, plain in drawn]
    text = np.frombuffer(b"".join(values), np.uint8)
    sizes = np.array([len(value) for value in values], np.int64)
    scanned = scan_or_validate(text, np.stack([np.cumsum(sizes) - sizes, sizes], axis=1))
    head_of = np.array([head for _, head, _ in drawn], np.int32)[scanned.records]
    hashes = hash_partition_keys(
        scanned.text, scanned.columns, [namespace for namespace, _ in known], [key for _, key in known], head_of
    )
    for line, found in zip(scanned.records.tolist(), hashes.tolist(), strict=True):
        validated = validate(values[line])
        assert isinstance(validated, ValidEvent)
        namespace, token = known[drawn[line][1]]
        for partitions in (1, 3, 8, 1_000):
            assert found % partitions == partition_of(partition_key(namespace, validated.event, token), partitions)


def _escaped(event: dict[str, object]) -> bytes:
    import json

    return json.dumps(event).encode()
