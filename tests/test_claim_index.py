"""The claim index finds every claim that was added and not removed, for any rows."""

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels import claim_index
from kernels.claim_index import ClaimIndex

fingerprints = st.one_of(st.integers(1, 4), st.integers(2**32 - 3, 2**32 - 1), st.integers(1, 2**32 - 1))
steps = st.lists(st.tuples(st.lists(fingerprints, max_size=30), st.floats(0, 1), st.booleans()), max_size=12)


@pytest.fixture(autouse=True)
def tiny_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make rows overflow and wrap around, and tables be rebuilt."""
    monkeypatch.setattr(claim_index, "SMALLEST", 2)


@given(steps)
def test_the_index_finds_the_claims_that_a_list_finds(steps: list[tuple[list[int], float, bool]]) -> None:
    index = ClaimIndex()
    known: list[int] = []
    first = 0
    for added, share, renumbers in steps:
        index.add(np.array(added, np.uint32), np.arange(len(known), len(known) + len(added), dtype=np.uint32))
        known += added
        first = max(first, int(share * len(known) / 2))
        index.forget_before(first)
        if renumbers:
            assert index.renumber() == first
            known, first = known[first:], 0
        wanted = np.array([1, 2, 3, 4, 2**32 - 1, *added], np.uint32)
        positions, numbers = index.find(wanted)
        found = sorted(zip(positions.tolist(), numbers.tolist(), strict=True))
        assert found == [
            (at, number)
            for at, fingerprint in enumerate(wanted.tolist())
            for number, each in enumerate(known)
            if each >> 3 == fingerprint >> 3 and abs(each - fingerprint) <= 1 and number >= first
        ]


def test_dropped_claims_free_their_space() -> None:
    index = ClaimIndex()
    for start in range(0, 100_000, 100):
        numbers = np.arange(start, start + 100, dtype=np.uint32)
        index.add(numbers * np.uint32(2_654_435_761) | np.uint32(1), numbers)
        index.forget_before(max(0, start - 1_000))
    assert index.nbytes < 30_000


def resident_peak() -> int:
    """Return the peak of the process's resident memory, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_growing_holds_one_table_at_a_time() -> None:
    index = ClaimIndex()
    index.make_room_for(4_000_000)
    count = int(claim_index.MAX_LOAD * index.nbytes / 8)
    numbers = np.arange(count, dtype=np.uint32)
    spread = numbers * np.uint32(2_654_435_761) | np.uint32(1)
    index.add(spread, numbers)
    assert index.nbytes / count < 9.2
    before = index.nbytes
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins at the present size
    resident = resident_peak()
    index.add(spread[:1], np.array([count], np.uint32))
    grown = index.nbytes - before
    assert 11.3 < index.nbytes / count < 11.5
    assert grown > 8_000_000
    assert resident_peak() - resident < 2 * grown
    assert np.array_equal(np.unique(index.find(spread[:100_000])[0]), np.arange(100_000))
