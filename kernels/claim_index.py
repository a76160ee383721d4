"""The claim index: where, among a partition's claims in Redis, owners of a key may be.

The worker that holds a partition keeps it in memory, so that Redis is asked about the few events that may have an
owner and not about all of them. It knows a fingerprint of 4 bytes and the claim's number, in a table of rows of 8
places; a full row flows over into the next one. It never misses an owner; now and then it names one of another key.

The last bits of a fingerprint are a time slice, the others a hash. Claims of one hash lie in one row, so that one look
finds those of the same slice and of its neighbours: memory is slow, and for each event some other row is looked at.
"""

import numpy as np
import numpy.typing as npt

from kernels.compiled import compiled

Numbers = npt.NDArray[np.uint32]
Fingerprints = npt.NDArray[np.uint32]
Positions = npt.NDArray[np.int64]

PLACES = 8
FULL = 0.88
"""A table this full is built again; one that is fuller has long rows of full rows."""
FRESH = 0.7
SMALLEST = 1024

SLICE_BITS = 3
SLICE_MASK = (1 << SLICE_BITS) - 1


class ClaimIndex:
    """Fingerprints of claims that are numbered from 0 in the order they are made."""

    def __init__(self) -> None:
        self._first = 0
        """The number of the first claim that is not forgotten."""
        self._used = 0
        self._make_table(SMALLEST)

    def _make_table(self, rows: int) -> None:
        self._fingerprints: Fingerprints = np.zeros((rows, PLACES), np.uint32)
        self._numbers: Numbers = np.zeros((rows, PLACES), np.uint32)

    @classmethod
    def precompile(cls) -> None:
        """Compile all that an index calls."""
        index = cls()
        index.add(np.ones(1, np.uint32), np.zeros(1, np.uint32))
        index.renumber()
        index.find(np.ones(1, np.uint32))

    def find(self, wanted: Fingerprints) -> tuple[Positions, Numbers]:
        """Every claim with the hash of one of the fingerprints `wanted`, its slice at most one away.

        Says which of them (its position), and the claim's number.
        """
        room, found = len(wanted), len(wanted) + 1
        while found > room:
            room = 2 * found
            positions, numbers = np.empty(room, np.int64), np.empty(room, np.uint32)
            found = _find(self._fingerprints, self._numbers, self._first, wanted, positions, numbers)
        return positions[:found], numbers[:found]

    def add(self, fingerprints: Fingerprints, numbers: Numbers) -> None:
        """Note claims, whose numbers are higher than all before."""
        self.make_room_for(len(numbers))
        _put(self._fingerprints, self._numbers, fingerprints, numbers)
        self._used += len(numbers)

    def make_room_for(self, count: int) -> None:
        """Make room for this many more claims at once, instead of growing table by table."""
        if self._used + count > FULL * self._fingerprints.size:
            self._build_anew(count)

    def forget_before(self, number: int) -> None:
        """Claims below `number` are of no interest any more."""
        self._first = number

    def renumber(self) -> int:
        """Drop what is forgotten and count from 0 again; returns by how much every number has become lower."""
        gone = self._first
        self._build_anew(room_for=0)
        self._numbers[self._fingerprints != 0] -= np.uint32(gone)
        self._first = 0
        return gone

    def _build_anew(self, room_for: int) -> None:
        old_fingerprints, old_numbers = self._fingerprints, self._numbers
        self._used = int(np.count_nonzero((old_fingerprints != 0) & (old_numbers >= self._first)))
        self._make_table(max(SMALLEST, int((self._used + room_for) / FRESH / PLACES) + 1))
        _move(old_fingerprints, old_numbers, self._first, self._fingerprints, self._numbers)

    @property
    def nbytes(self) -> int:
        """Memory of the table, in bytes."""
        return self._fingerprints.nbytes + self._numbers.nbytes


@compiled
def _home(fingerprint: np.uint32, rows: int) -> int:
    """The row where a fingerprint belongs, whatever its slice: rows lie in the order of hashes."""
    hashed = np.uint64(fingerprint) & ~np.uint64(SLICE_MASK)
    return np.int64(hashed * np.uint64(rows) >> np.uint64(32))  # type: ignore[return-value]


@compiled
def _is_near(one: np.uint32, other: np.uint32) -> bool:
    apart = np.int64(one) - np.int64(other)
    return bool(one >> SLICE_BITS == other >> SLICE_BITS and -1 <= apart <= 1)


@compiled
def _find(
    table: Fingerprints,
    table_numbers: Numbers,
    first: int,
    wanted: Fingerprints,
    positions: Positions,
    numbers: Numbers,
) -> int:
    """How many there are; those for which there is room are noted."""
    found = 0
    for position in range(len(wanted)):
        row = _home(wanted[position], len(table))
        while True:
            for place in range(PLACES):
                if _is_near(table[row, place], wanted[position]) and table[row, place] != 0:
                    number = table_numbers[row, place]
                    if number >= first:
                        if found < len(positions):
                            positions[found], numbers[found] = position, number
                        found += 1
            if table[row, PLACES - 1] == 0:
                break
            row = (row + 1) % len(table)
    return found


@compiled
def _put(table: Fingerprints, table_numbers: Numbers, fingerprints: Fingerprints, numbers: Numbers) -> None:
    """Each into the first row from its home on that is not full: a row that is not ends every search."""
    for i in range(len(fingerprints)):
        row = _home(fingerprints[i], len(table))
        while table[row, PLACES - 1] != 0:
            row = (row + 1) % len(table)
        place = 0
        while table[row, place] != 0:
            place += 1
        table[row, place], table_numbers[row, place] = fingerprints[i], numbers[i]


@compiled
def _move(old: Fingerprints, old_numbers: Numbers, first: int, table: Fingerprints, table_numbers: Numbers) -> None:
    """Put what is not forgotten into a new table."""
    for row in range(len(old)):
        for place in range(PLACES):
            if old[row, place] != 0 and old_numbers[row, place] >= first:
                _put(table, table_numbers, old[row, place : place + 1], old_numbers[row, place : place + 1])
