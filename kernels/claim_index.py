"""Claim index: a hash table from deduplication keys to candidate numbers of a partition's claims in Redis.

A worker keeps it in memory for each of its partitions, so that Redis is asked only about events that may have an owner.
It holds a fingerprint of 4 bytes and the claim's number, in rows of 8 slots; a full row overflows into the next one.
It never misses an owner; rarely it names the claim of another key.

The last bits of a fingerprint are a time slice, the others a hash. Claims of one hash are in one row, so that one
access finds those of the same slice and of its neighbours: memory is slow, and each event accesses another row.
"""

import mmap
from contextlib import suppress
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kernels.compiled import compiled

Numbers = npt.NDArray[np.uint32]
Fingerprints = npt.NDArray[np.uint32]
Indices = npt.NDArray[np.int64]

SLOTS = 8
MAX_LOAD = 0.88
"""Load factor at which a table is rebuilt; above it, runs of full rows are long."""
REBUILT_LOAD = 0.7
SMALLEST = 1024
PIECE_BYTES = 1024 * 1024
"""Bytes of the old table that a rebuild moves before it returns them to the system."""

SLICE_BITS = 3
SLICE_MASK = (1 << SLICE_BITS) - 1


class _Half(NamedTuple):
    """Fingerprints or numbers of a table, in memory pages of their own: parts of it can be returned to the system."""

    pages: mmap.mmap
    slots: npt.NDArray[np.uint32]

    @classmethod
    def of(cls, rows: int) -> "_Half":
        """Make a half of zeros. Raises MemoryError."""
        try:
            pages = mmap.mmap(-1, rows * SLOTS * 4, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:
            raise MemoryError(f"no memory for {rows:,} rows of the claim index") from error
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with suppress(OSError):  # a kernel without them
                pages.madvise(mmap.MADV_HUGEPAGE)
        return cls(pages, np.frombuffer(pages, np.uint32).reshape(rows, SLOTS))

    def drop(self, rows: int) -> None:
        """Return the memory of the first rows to the system: they are not read again."""
        size = min(rows, len(self.slots)) * SLOTS * 4 // mmap.PAGESIZE * mmap.PAGESIZE
        if size and hasattr(mmap, "MADV_DONTNEED"):
            self.pages.madvise(mmap.MADV_DONTNEED, 0, size)


class ClaimIndex:
    """Fingerprints of claims, which are numbered from 0 in the order they are made. Not thread-safe.

    Fingerprints are uint32 and not 0. A slot takes 8 bytes, and from REBUILT_LOAD to MAX_LOAD of them are used. A
    rebuild returns the old table's memory while it fills the new one. Arrays that are passed in are not kept.
    """

    def __init__(self) -> None:
        self._first = 0
        """Lowest number that is not forgotten."""
        self._used = 0
        self._make_table(SMALLEST)

    def _make_table(self, rows: int) -> None:
        self._halves = _Half.of(rows), _Half.of(rows)
        self._fingerprints, self._numbers = (half.slots for half in self._halves)

    @classmethod
    def precompile(cls) -> None:
        """Compile all that an index calls."""
        index = cls()
        index.add(np.ones(1, np.uint32), np.zeros(1, np.uint32))
        index.renumber()
        index.find(np.ones(1, np.uint32))

    def find(self, wanted: Fingerprints) -> tuple[Indices, Numbers]:
        """Find every claim with the hash of a wanted fingerprint and a slice at most one away.

        Returns the index of the wanted fingerprint and the number of the claim, for each pair. Claims that are
        forgotten are left out.
        """
        room, found = len(wanted), len(wanted) + 1
        while found > room:
            room = 2 * found
            indices, numbers = np.empty(room, np.int64), np.empty(room, np.uint32)
            found = _find(self._fingerprints, self._numbers, self._first, wanted, indices, numbers)
        return indices[:found], numbers[:found]

    def add(self, fingerprints: Fingerprints, numbers: Numbers) -> None:
        """Add claims, whose numbers are higher than all before."""
        self.make_room_for(len(numbers))
        _put(self._fingerprints, self._numbers, fingerprints, numbers)
        self._used += len(numbers)

    def make_room_for(self, count: int) -> None:
        """Make room for a number of claims at once, instead of growing table by table."""
        if self._used + count > MAX_LOAD * self._fingerprints.size:
            self._rebuild(count)

    def forget_before(self, number: int) -> None:
        """Forget the claims below a number. They take memory until the next rebuild."""
        self._first = number

    def renumber(self) -> int:
        """Drop forgotten claims and number the others from 0; return the difference between old and new numbers."""
        gone = self._first
        self._rebuild(room_for=0, renumber=True)
        return gone

    def _rebuild(self, room_for: int, *, renumber: bool = False) -> None:
        """Move claims that are not forgotten to a table with room for more."""
        old_halves, old_fingerprints, old_numbers = self._halves, self._fingerprints, self._numbers
        used = _count(old_fingerprints, old_numbers, self._first)
        self._make_table(max(SMALLEST, int((used + room_for) / REBUILT_LOAD / SLOTS) + 1))
        self._used = used
        piece, lower = PIECE_BYTES // SLOTS // 4, self._first if renumber else 0
        for start in range(0, len(old_fingerprints), piece):
            end = start + piece
            old = old_fingerprints[start:end], old_numbers[start:end]
            _move(*old, self._first, lower, self._fingerprints, self._numbers)
            for half in old_halves:
                half.drop(rows=end)
        self._first -= lower

    @property
    def nbytes(self) -> int:
        """Memory of the table, in bytes."""
        return self._fingerprints.nbytes + self._numbers.nbytes


@compiled
def _home(fingerprint: np.uint32, rows: int) -> int:
    """Return the home row of a fingerprint, which does not depend on its slice: rows are in the order of hashes."""
    hashed = np.uint64(fingerprint) & ~np.uint64(SLICE_MASK)
    return np.int64(hashed * np.uint64(rows) >> np.uint64(32))  # type: ignore[return-value]


@compiled
def _is_near(one: np.uint32, other: np.uint32) -> bool:
    apart = np.int64(one) - np.int64(other)
    return bool(one >> SLICE_BITS == other >> SLICE_BITS and -1 <= apart <= 1)


@compiled
def _find(
    table: Fingerprints, table_numbers: Numbers, first: int, wanted: Fingerprints, indices: Indices, numbers: Numbers
) -> int:
    """Return the count of all pairs; write as many of them as there is room for."""
    found = 0
    for index in range(len(wanted)):
        row = _home(wanted[index], len(table))
        while True:
            for slot in range(SLOTS):
                if _is_near(table[row, slot], wanted[index]) and table[row, slot] != 0:
                    number = table_numbers[row, slot]
                    if number >= first:
                        if found < len(indices):
                            indices[found], numbers[found] = index, number
                        found += 1
            if table[row, SLOTS - 1] == 0:
                break
            row = (row + 1) % len(table)
    return found


@compiled
def _put_one(table: Fingerprints, table_numbers: Numbers, fingerprint: np.uint32, number: int) -> None:
    """Put a claim into the first row from its home on that is not full: such a row ends every search."""
    row = _home(fingerprint, len(table))
    while table[row, SLOTS - 1] != 0:
        row = (row + 1) % len(table)
    slot = 0
    while table[row, slot] != 0:
        slot += 1
    table[row, slot], table_numbers[row, slot] = fingerprint, number


@compiled
def _put(table: Fingerprints, table_numbers: Numbers, fingerprints: Fingerprints, numbers: Numbers) -> None:
    for i in range(len(fingerprints)):
        _put_one(table, table_numbers, fingerprints[i], numbers[i])


@compiled
def _count(table: Fingerprints, table_numbers: Numbers, first: int) -> int:
    """Return the number of claims that are not forgotten."""
    count = 0
    for row in range(len(table)):
        for slot in range(SLOTS):
            if table[row, slot] != 0 and table_numbers[row, slot] >= first:
                count += 1
    return count


@compiled
def _move(
    old: Fingerprints, old_numbers: Numbers, first: int, lower: int, table: Fingerprints, table_numbers: Numbers
) -> None:
    """Move claims that are not forgotten to a new table, and lower their numbers by `lower`."""
    for row in range(len(old)):
        for slot in range(SLOTS):
            if old[row, slot] != 0 and old_numbers[row, slot] >= first:
                _put_one(table, table_numbers, old[row, slot], old_numbers[row, slot] - lower)
