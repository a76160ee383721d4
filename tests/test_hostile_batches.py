"""Record batches that contradict themselves: each offset is read once, whatever they contain, and within bounds."""

import gzip
import struct
import tracemalloc
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import cramjam
import pytest
from aiokafka import TopicPartition
from aiokafka.codec import snappy_encode
from aiokafka.consumer import fetcher
from hypothesis import given
from hypothesis import strategies as st

from consumers.records import DEFAULT_LIMITS, MOST_HEADERS, PlainRecord, Records
from kernels.boundary import ReadLimits, read_batches
from runtime import whole_batches
from runtime.log_batches import Items
from schemas.event_time import END_MS
from schemas.letter import read_name, write_name
from tests.hostile.raw_producer import RawRecord, batch_of, encode_batch, encode_records, varint, whole
from tests.validating import all_records

GZIP, SNAPPY, LZ4, ZSTD = 1, 2, 3, 4
COMPRESS: dict[int, Callable[[bytes], bytes]] = {
    GZIP: gzip.compress,
    SNAPPY: snappy_encode,
    LZ4: lambda raw: bytes(cramjam.lz4.compress(raw)),
    ZSTD: lambda raw: bytes(cramjam.zstd.compress(raw)),
}
deltas = st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 8)
some_records = st.lists(
    st.builds(
        RawRecord,
        value=st.none() | st.binary(max_size=20),
        key=st.none() | st.binary(max_size=5),
        headers=st.lists(
            st.tuples(st.none() | st.binary(max_size=3), st.none() | st.binary(max_size=3)), max_size=3
        ).map(tuple),
        delta=st.none() | deltas,
    ),
    max_size=6,
)


def read(*raw: bytes, wanted: int = 0, limits: ReadLimits = DEFAULT_LIMITS) -> Records:
    """Return all rows of some batches, read in the pieces that the limits make of them."""
    parts: list[Records] = []
    unread: dict[int, Items] = {0: [whole(each, wanted) for each in raw]}
    while unread:
        part, unread = Records.read(unread, limits)
        parts.append(part)
    return Records.joined(parts)


def records_and_flaws(records: Records) -> list[tuple[PlainRecord, Any]]:
    """Record and flaw of each line."""
    return [(records.at(line), records.flaw_at(line)) for line in range(len(records))]


def reasons(records: Records) -> list[str | None]:
    """The reason of each line that is not an event."""
    return [flaw and flaw.reason for flaw in map(records.flaw_at, range(len(records)))]


@given(st.lists(deltas, min_size=1, max_size=8), st.integers(0, 9))
def test_a_batch_with_a_record_for_each_offset_has_them_in_order(named: list[int], base: int) -> None:
    """Offsets in the records themselves do not count; records with another offset are flawed, and keep their bytes."""
    payload = encode_records([RawRecord(b"%d" % place, delta=delta) for place, delta in enumerate(named)])
    records = read(encode_batch(payload, len(named), base=base))
    assert records.offsets.tolist() == [base + place for place in range(len(named))]
    assert [record.value for record, _ in records_and_flaws(records)] == [b"%d" % place for place in range(len(named))]
    assert reasons(records) == ["bad_record" if delta != place else None for place, delta in enumerate(named)]


@given(st.lists(deltas, min_size=1, max_size=8), st.integers(0, 12))
def test_a_compacted_batch_is_read_if_its_offsets_ascend(named: list[int], more: int) -> None:
    last_delta = len(named) + more
    payload = encode_records([RawRecord(delta=delta) for delta in named])
    records = read(encode_batch(payload, len(named), last_delta=last_delta))
    if named == sorted(set(named)) and named[0] >= 0 and named[-1] <= last_delta:
        assert records.offsets.tolist() == named
        assert set(reasons(records)) == {None}
    else:
        assert records.offsets.tolist() == list(range(last_delta + 1))
        assert set(reasons(records)) == {"bad_batch"}


@given(some_records, st.data())
def test_each_offset_of_a_damaged_batch_has_one_line(records: list[RawRecord], data: st.DataObject) -> None:
    payload = bytearray(encode_records(records))
    for _ in range(data.draw(st.integers(0, 3))):
        if payload:
            payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    payload = payload[: data.draw(st.integers(0, len(payload)))] + data.draw(st.binary(max_size=2))
    count = data.draw(st.integers(1, 9))
    assert read(encode_batch(bytes(payload), count)).offsets.tolist() == list(range(count))


@given(
    some_records,
    st.integers(-(2**31), 2**31 - 1) | st.integers(-3, 9),
    st.integers(-(2**31), 2**31 - 1) | st.integers(-3, 9),
    st.integers(-(2**15), 2**15 - 1),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(0, 12),
)
def test_any_header_gives_ascending_offsets_and_storable_times(
    records: list[RawRecord], count: int, last_delta: int, attributes: int, at_ms: int, wanted: int
) -> None:
    raw = encode_batch(
        encode_records(records),
        count,
        last_delta=last_delta,
        base=2,
        attributes=attributes,
        first_ms=at_ms,
        highest_ms=at_ms,
    )
    part, unread = Records.read({0: [whole(raw, wanted)]}, DEFAULT_LIMITS._replace(rows=100))
    offsets = part.offsets.tolist()
    assert offsets == sorted(set(offsets))
    assert all(max(2, wanted) <= offset <= 2 + max(last_delta, 0) for offset in offsets)
    assert all(0 <= append_ms < END_MS for append_ms in part.append_ms.tolist())
    expected = max(last_delta, 0) + 3 - max(2, wanted)
    if any(reason in ("bad_batch", "batch_too_large") for reason in reasons(part)) or count == last_delta + 1:
        assert len(offsets) == max(0, min(100, expected))
        assert bool(unread) == (expected > 100)


@given(st.lists(some_records, min_size=1, max_size=4), st.data())
def test_reading_in_pieces_gives_the_same_records(batches: list[list[RawRecord]], data: st.DataObject) -> None:
    """Where a reading ends for want of room, the next one begins: at a record within a batch, or at another batch."""
    raw: list[bytes] = []
    base = 0
    for records in batches:
        payload, codec = encode_records(records), data.draw(st.sampled_from([0, *COMPRESS]))
        payload = COMPRESS.get(codec, bytes)(payload) + data.draw(st.sampled_from([b"", b"", b"left"]))
        last_delta = len(records) + data.draw(st.integers(-1, 2))
        raw.append(encode_batch(payload, len(records), last_delta=last_delta, base=base, attributes=codec))
        base += max(last_delta, 0) + 1
    wanted = data.draw(st.integers(0, base))
    small = DEFAULT_LIMITS._replace(
        total_bytes=data.draw(st.integers(1, 60)),
        rows=data.draw(st.integers(1, 5)),
        headers=data.draw(st.integers(1, 4)),
    )
    whole_reading = records_and_flaws(read(*raw, wanted=wanted))
    assert records_and_flaws(read(*raw, wanted=wanted, limits=small)) == whole_reading
    offsets = [record.offset for record, _ in whole_reading]
    assert offsets == sorted(set(offsets))
    plain = [each for each in records_and_flaws(read(*raw)) if each[0].offset >= wanted]
    assert whole_reading == plain


@pytest.mark.parametrize("codec", [0, *COMPRESS])
def test_no_batch_takes_more_memory_than_its_bound(codec: int) -> None:
    """A batch of the bound's size is read; one byte more is refused before it is fully decompressed."""
    one = encode_records([RawRecord(b"x" * 100_000)])
    raw = encode_batch(COMPRESS.get(codec, bytes)(one), 1, attributes=codec)
    assert reasons(read(raw, limits=DEFAULT_LIMITS._replace(batch_bytes=len(one)))) == [None]
    records = read(raw, limits=DEFAULT_LIMITS._replace(batch_bytes=len(one) - 1))
    assert records_and_flaws(records)[0][0] == PlainRecord(0, 0, None, None, ())
    flaw = records.flaw_at(0)
    assert flaw is not None
    assert flaw.reason == "batch_too_large"
    assert "TALLY_BATCH_UNCOMPRESSED_BYTES" in flaw.message


def _xerial(*blocks: bytes) -> bytes:
    return b"\x82SNAPPY\0" + struct.pack(">ii", 1, 1) + b"".join(struct.pack(">i", len(each)) + each for each in blocks)


_ONE = encode_records([RawRecord()])
_SNAPPY_ONE = bytes(cramjam.snappy.compress_raw(_ONE))
UNDECODABLE = {
    "an unknown codec": (5, _ONE),
    "gzip cut short": (GZIP, COMPRESS[GZIP](_ONE)[:-1]),
    "gzip and more": (GZIP, COMPRESS[GZIP](_ONE) + b"more"),
    "lz4 cut short": (LZ4, COMPRESS[LZ4](_ONE)[:-4]),
    "lz4 and more": (LZ4, COMPRESS[LZ4](_ONE) + b"more"),
    "zstd cut short": (ZSTD, COMPRESS[ZSTD](_ONE)[:-1]),
    "zstd of a window of 2 GiB": (ZSTD, b"\x28\xb5\x2f\xfd\x00\xa8\x03\x00\x00x"),
    "snappy cut short": (SNAPPY, _SNAPPY_ONE[:-1]),
    "snappy whose block is larger than the payload": (SNAPPY, _xerial(_SNAPPY_ONE)[:-1]),
    "snappy with a block of a negative size": (SNAPPY, _xerial()[:16] + b"\xff\xff\xff\xf0" + _SNAPPY_ONE),
    "snappy with half a block's size": (SNAPPY, _xerial(_SNAPPY_ONE) + b"\0"),
    "nothing": (LZ4, b""),
}


@pytest.mark.parametrize("what", UNDECODABLE)
def test_records_that_cannot_be_decompressed_keep_their_offsets(what: str) -> None:
    codec, payload = UNDECODABLE[what]
    records = read(encode_batch(payload, 3, attributes=codec), batch_of([RawRecord(b"other")]))
    assert reasons(records) == ["bad_batch"] * 3 + [None]


def test_consecutive_frames_and_blocks_are_one_payload() -> None:
    """Successive frames are one payload, as for the codecs' own readers; their sizes count together."""
    two = encode_records([RawRecord(b"a" * 500), RawRecord(b"b" * 500)])
    half = len(two) // 2
    for codec, compress in COMPRESS.items():
        parts = two[:half], two[half:]
        payload = (
            _xerial(*(bytes(cramjam.snappy.compress_raw(part)) for part in parts))
            if codec == SNAPPY
            else b"".join(map(compress, parts))
        )
        raw = encode_batch(payload, 2, attributes=codec)
        assert [record.value for record, _ in records_and_flaws(read(raw))] == [b"a" * 500, b"b" * 500]
        assert set(reasons(read(raw, limits=DEFAULT_LIMITS._replace(batch_bytes=len(two) - 1)))) == {"batch_too_large"}


def test_millions_of_records_are_read_in_pieces() -> None:
    """Lines and decoded headers take at most a few times the memory bound."""
    count = 1_000_000
    payload = COMPRESS[ZSTD](b"".join(varint(6) + b"\0\0\0\1\1\0" for _ in range(count)))
    batch = whole(encode_batch(payload, count, attributes=ZSTD), 0)
    tracemalloc.start()
    try:
        taken, unread = 0, [(0, 0)]
        while unread:
            found = read_batches([(batch.raw, unread[0][1])], DEFAULT_LIMITS)
            assert found.rows[:, 0].tolist() == list(range(taken, taken + len(found.rows)))
            taken, unread = taken + len(found.rows), [*found.unread]
        assert tracemalloc.get_traced_memory()[1] < 128 * 1024 * 1024
    finally:
        tracemalloc.stop()
    assert taken == count


def test_a_range_of_two_billion_offsets_is_read_in_pieces() -> None:
    part, unread = Records.read({0: [whole(encode_batch(b"", 5, last_delta=2**31 - 1), 7)]}, DEFAULT_LIMITS)
    assert (len(part), part.offsets[0]) == (DEFAULT_LIMITS.rows, 7)
    assert unread[0][0].offset == 7 + len(part)


def test_unreadable_records_hold_no_text() -> None:
    """A reading with few lines must not hold a batch's bytes: many of them may wait for a batch to be full."""
    damaged = encode_batch(encode_records([RawRecord(b"x" * 100_000)]) + b"left", 1)
    batches = damaged, batch_of([RawRecord(b"good", b"key")]), damaged
    assert len(read_batches([(memoryview(each), 0) for each in batches], DEFAULT_LIMITS).text) < 100
    records = read(damaged, batch_of([RawRecord(b"good", b"key", [(b"n", b"v")])]), damaged)
    assert records_and_flaws(records)[1] == (PlainRecord(0, 0, b"key", b"good", (("n", b"v"),)), None)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([(b"a\xff\xfe", b"1")], (("a\udcff\udcfe", b"1"),)),
        ([(b"a", b"1"), (b"a", None)], (("a", b"1"), ("a", None))),
        ([(None, b"1"), (b"", b"")], (("", b"1"), ("", b""))),
    ],
)
def test_header_names_are_bytes(headers: Sequence[tuple[bytes | None, bytes | None]], expected: Any) -> None:
    records = read(batch_of([RawRecord(b"v", headers=headers)]))
    assert records_and_flaws(records) == [(PlainRecord(0, 0, b"k", b"v", expected), None)]


@given(st.binary(max_size=20) | st.text(max_size=10).map(lambda text: text.encode(errors="surrogatepass")))
def test_a_letter_keeps_every_header_name(raw: bytes) -> None:
    """A client can write the name that a letter has for it, and reading gives the bytes back."""
    name = raw.decode(errors="surrogateescape")
    written = write_name(name)
    assert read_name(written.encode().decode()) == name
    assert write_name(written) == written or written.startswith("tally-letter-raw-name-")
    assert read_name(write_name(written)) == written


def test_headers_beyond_the_memory_bound_are_omitted() -> None:
    """A record with too many or invalid headers becomes a letter without headers; its value stays."""
    many = [(b"", None)] * (MOST_HEADERS + 1)
    some = [(b"a", b"b")]
    malformed = RawRecord(header_count=1), RawRecord(headers=some, header_count=0)
    records = read(batch_of([RawRecord(headers=many[1:]), RawRecord(headers=many), *malformed]))
    assert reasons(records) == [None, "bad_record", "bad_record", "bad_record"]
    assert [len(record.headers) for record, _ in records_and_flaws(records)] == [MOST_HEADERS, 0, 0, 0]
    assert {record.value for record, _ in records_and_flaws(records)} == {b"{}"}


def test_a_record_larger_than_any_event_keeps_its_bytes_and_is_not_validated() -> None:
    records = read(batch_of([RawRecord(b"[" * 2_000), RawRecord()]), limits=DEFAULT_LIMITS._replace(record_bytes=1_000))
    assert reasons(records) == ["too_large", None]
    assert records.at(0).value == b"[" * 2_000


@pytest.mark.parametrize("size", [2**63 - 1, 2**63 - 2, 2**62, 2**31])
def test_a_record_whose_size_overflows_an_address_is_not_read(size: int) -> None:
    """Compiled code may not add such a size to a place: found by the fuzzer between guard pages."""
    records = read(batch_of([RawRecord(b"v", size=size)]), batch_of([RawRecord(b"other")]))
    assert reasons(records) == ["bad_batch", None]


def test_a_batch_that_ends_before_it_begins_does_not_rewind_the_client() -> None:
    """The client continues after the batch; rewound, it would read the same batch endlessly."""
    raw = encode_batch(_ONE, 1, last_delta=-40, base=100)
    whole_batches.install()
    place, fetched = TopicPartition("t", 0), whole_batches._private.MemoryRecords(raw)
    part = fetcher.PartitionRecords(place, fetched, [], 100, whole_batches.whole, None, True, fetcher.READ_COMMITTED)
    (batch,) = part
    assert (batch.offset, batch.next_offset, part.next_fetch_offset) == (100, 101, 101)
    assert reasons(all_records({0: [batch]})) == ["bad_batch"]


@given(st.lists(some_records, min_size=1, max_size=4), st.lists(st.integers(0, 8), max_size=8))
def test_records_are_unchanged_after_splitting_and_joining(batches: list[list[RawRecord]], cuts: list[int]) -> None:
    """Parts may be empty: a range that is read again may end within the fetched records."""
    records = read(*(encode_batch(encode_records(each), len(each), base=10 * at) for at, each in enumerate(batches)))
    ends = [0, *sorted(min(cut, len(records)) for cut in cuts), len(records)]
    parts = [records[begin:end] for begin, end in pairwise(ends)]
    assert records_and_flaws(Records.joined(parts)) == records_and_flaws(records)
    assert records_and_flaws(Records.joined([*parts, records[:0]])) == records_and_flaws(records)
