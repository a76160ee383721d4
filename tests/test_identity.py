"""Identity: ids sort by time, are UUIDv7, and are derived alike every time."""

import uuid
from concurrent.futures import ThreadPoolExecutor

from hypothesis import given
from hypothesis import strategies as st

from schemas.identity import (
    IdMint,
    derive_foreign_id,
    derive_import_id,
    id_bytes,
    id_from_bytes,
    id_time_ms,
    is_interaction_id,
)

times_ms = st.integers(0, 2**48 - 1)


def as_uuid(interaction_id: str) -> uuid.UUID:
    return uuid.UUID(interaction_id.removeprefix("int_"))


def test_minted_ids_are_uuid7_and_ascend_across_threads() -> None:
    mint = IdMint()
    with ThreadPoolExecutor(4) as pool:
        batches = list(pool.map(lambda _: [mint() for _ in range(5_000)], range(4)))
    for batch in batches:
        assert batch == sorted(batch)
    minted = [each for batch in batches for each in batch]
    assert len(set(minted)) == len(minted)
    assert all(is_interaction_id(each) for each in minted)
    assert {(as_uuid(each).version, as_uuid(each).variant) for each in minted} == {(7, uuid.RFC_4122)}


@given(st.lists(st.integers(0, 5_000), max_size=4))
def test_ids_minted_together_ascend_beyond_the_count_of_a_millisecond(sizes: list[int]) -> None:
    mint = IdMint()
    minted = [each for size in sizes for each in mint.many(size)]
    assert len(minted) == sum(sizes)
    assert minted == sorted(set(minted))
    assert all(is_interaction_id(each) for each in minted)


@given(times_ms, times_ms, st.integers(0, 100), st.integers(0, 2**63 - 1))
def test_derived_ids_carry_their_time_and_sort_by_it(one: int, other: int, partition: int, offset: int) -> None:
    first, second = (derive_foreign_id("topic", partition, offset, at) for at in (one, other))
    assert is_interaction_id(first)
    assert id_time_ms(first) == one
    assert (one < other) <= (first < second)
    assert id_from_bytes(id_bytes(first)) == first


@given(
    st.lists(
        st.tuples(st.text(max_size=4), st.integers(0, 3), st.integers(0, 5), st.integers(0, 3)),
        unique=True,
        max_size=20,
    )
)
def test_foreign_records_have_stable_and_distinct_ids(places: list[tuple[str, int, int, int]]) -> None:
    ids = [derive_foreign_id(*place) for place in places]
    assert ids == [derive_foreign_id(*place) for place in places]
    assert len(set(ids)) == len(places)


@given(
    st.lists(
        st.tuples(st.text("ab", max_size=2), st.text("ab/", max_size=3), st.binary(max_size=3), st.integers(0, 2)),
        unique=True,
        max_size=20,
    )
)
def test_imported_rows_have_stable_and_distinct_ids(rows: list[tuple[str, str, bytes, int]]) -> None:
    ids = [derive_import_id(*row, event_ms=1_574_553_634_762) for row in rows]
    assert ids == [derive_import_id(*row, event_ms=1_574_553_634_762) for row in rows]
    assert len(set(ids)) == len(rows)


def test_the_derivation_never_changes() -> None:
    # Written down once: another value would make every import and redelivery a different event.
    assert derive_foreign_id("interactions", 3, 41, 1_700_000_000_000) == "int_018bcfe568007e4e9bfdc6597dd2fd19"
    imported = derive_import_id("default", "open-bandit/random/all", b"row", 0, 1_574_553_634_762)
    assert imported == "int_016e9ab5c7ca7013b64bcb9776bb7795"


def test_malformed_ids_are_not_ids() -> None:
    good = IdMint()()
    for wrong in ("", "int_", good.upper(), good + "0", good + "\n", good[:-1], good.replace("int_", "INT_"), "x" * 36):
        assert not is_interaction_id(wrong)
