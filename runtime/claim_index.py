"""The claim index: where, among a partition's claims in Redis, owners of a key may be.

The worker that holds a partition keeps it in memory, so that Redis is asked about the few events that may have an
owner and not about all of them. It knows 4 bytes of a hash and the claim's number, in a table of rows of 8 places;
a full row flows over into the next one. It never misses an owner; now and then it names one of another key.
"""

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.uint32]
Fingerprints = npt.NDArray[np.uint32]
Positions = npt.NDArray[np.int64]

PLACES = 8
FULL = 0.75
"""A table this full is built anew; one that is fuller has long rows of full rows."""
FRESH = 0.55
SMALLEST = 1024
_BLOCK_ROWS = 65_536


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
        self._filled = np.zeros(rows, np.uint8)

    def find(self, wanted: Fingerprints) -> tuple[Positions, Numbers]:
        """Every claim with one of the fingerprints `wanted`: which of them (its position), and the claim's number."""
        which: Positions = np.arange(len(wanted))
        rows = self._home(wanted)
        positions, numbers = [], []
        while len(which):
            hits, places = np.nonzero(self._fingerprints[rows] == wanted[which, None])
            positions.append(which[hits])
            numbers.append(self._numbers[rows[hits], places])
            flows_over = self._filled[rows] == PLACES
            which, rows = which[flows_over], (rows[flows_over] + 1) % len(self._filled)
        if not positions:
            return which, np.zeros(0, np.uint32)
        found = np.concatenate(numbers)
        is_known = found >= self._first
        return np.concatenate(positions)[is_known], found[is_known]

    def add(self, fingerprints: Fingerprints, numbers: Numbers) -> None:
        """Note claims, whose numbers are higher than all before."""
        if self._used + len(numbers) > FULL * self._fingerprints.size:
            self._build_anew(room_for=len(numbers))
        self._put(fingerprints, numbers)

    def _put(self, fingerprints: Fingerprints, numbers: Numbers) -> None:
        self._used += len(numbers)
        rows = self._home(fingerprints)
        while len(rows):
            order = np.argsort(rows, kind="stable")
            rows, fingerprints, numbers = rows[order], fingerprints[order], numbers[order]
            places = self._filled[rows] + _rank_among_equals(rows)
            fits = places < PLACES
            self._fingerprints[rows[fits], places[fits]] = fingerprints[fits]
            self._numbers[rows[fits], places[fits]] = numbers[fits]
            self._filled[rows[fits]] = places[fits] + 1  # of equal rows the last one counts, which has the highest
            rows, fingerprints, numbers = (rows[~fits] + 1) % len(self._filled), fingerprints[~fits], numbers[~fits]

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
        is_known = (old_fingerprints != 0) & (old_numbers >= self._first)
        room = int(is_known.sum()) + room_for
        self._used = 0
        self._make_table(max(SMALLEST, int(room / FRESH / PLACES) + 1))
        for start in range(0, len(old_fingerprints), _BLOCK_ROWS):
            block = slice(start, start + _BLOCK_ROWS)
            self._put(old_fingerprints[block][is_known[block]], old_numbers[block][is_known[block]])

    def _home(self, fingerprints: Fingerprints) -> Positions:
        """The row where a fingerprint belongs: rows lie in the order of fingerprints."""
        return ((fingerprints.astype(np.uint64) * np.uint64(len(self._filled))) >> np.uint64(32)).astype(np.int64)

    @property
    def nbytes(self) -> int:
        """Memory of the table, in bytes."""
        return self._fingerprints.nbytes + self._numbers.nbytes + self._filled.nbytes


def _rank_among_equals(rows: Positions) -> Positions:
    """For sorted rows: 0 for the first of each value, 1 for the second..."""
    at = np.arange(len(rows))
    begins = np.ones(len(rows), bool)
    begins[1:] = rows[1:] != rows[:-1]
    return at - np.maximum.accumulate(np.where(begins, at, 0))
