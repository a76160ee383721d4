"""Owners of claims as they travel: rows of 7 signed 64-bit numbers, and the verdict on those that may have an owner."""

import secrets
import struct
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kernels.boundary import SLICE_BITS, SLICE_MASK, Fingerprints
from schemas.identity import id_bytes, id_from_bytes

Rows = npt.NDArray[np.int64]
"""One owner a row, as it lies in Redis: key (2 numbers), offset, event time, append time, id (2 numbers)."""

Numbers = npt.NDArray[np.int64]

OWNER_BYTES = 56
_COLUMNS = OWNER_BYTES // 8
_OFFSET, _EVENT_MS, _APPEND_MS = 2, 3, 4

ASKS_ONLY, REPLAYED, STORED = 1, 2, 4
"""Flags of an event: it is known not to be stored, and wants to know whose duplicate it is; it is a dead letter put
back; it has a row already, and owns its key whatever else does."""

_OWNER = struct.Struct("<16sqqq16s")
_DEAD = -1
"""The offset of an owner that owns nothing any more."""
_SPREAD = np.uint64(0x9E3779B97F4A7C15)
_SECRET = np.uint64(secrets.randbits(64) | 1)
"""Seed of this process: else a sender could choose event times that all collide in the index."""


class Claim(NamedTuple):
    """One event that asks for its key. Times in milliseconds since 1970."""

    key: bytes
    offset: int
    event_ms: int
    append_ms: int
    interaction_id: str


class Owner(NamedTuple):
    """The stored event that another one is a duplicate of."""

    offset: int
    interaction_id: str


class Known(NamedTuple):
    """An owner that was read from Redis, or has just come about: then it has no number yet."""

    offset: int
    event_ms: int
    append_ms: int
    raw_id: bytes
    number: int | None


def rows_of(
    keys: Sequence[bytes],
    offsets: Sequence[int],
    event_ms: Sequence[int],
    append_ms: Sequence[int],
    interaction_ids: Iterable[str],
) -> Rows:
    """Events that ask, column by column, as rows."""
    ids = np.frombuffer(b"".join(map(id_bytes, interaction_ids)), np.uint8)
    return make_rows(b"".join(keys), np.array(offsets), np.array(event_ms), np.array(append_ms), ids)


def make_rows(keys: bytes, offsets: Numbers, event_ms: Numbers, append_ms: Numbers, ids: npt.NDArray[np.uint8]) -> Rows:
    """The same, keys and ids as bytes, one after the other."""
    rows = np.empty((len(offsets), _COLUMNS), np.int64)
    rows[:, :2] = np.frombuffer(keys, np.int64).reshape(-1, 2)
    rows[:, _OFFSET] = offsets
    rows[:, _EVENT_MS] = event_ms
    rows[:, _APPEND_MS] = append_ms
    rows[:, 5:] = np.ascontiguousarray(ids).reshape(-1).view(np.int64).reshape(-1, 2)
    return rows


def offsets_of(rows: Rows) -> Numbers:
    """Offsets of rows, or of one row."""
    return rows[..., _OFFSET]


def event_ms_of(rows: Rows) -> Numbers:
    """Event times of rows, or of one row."""
    return rows[..., _EVENT_MS]


def append_ms_of(rows: Rows) -> Numbers:
    """Append times of rows, or of one row."""
    return rows[..., _APPEND_MS]


def raw_ids_of(rows: Rows) -> npt.NDArray[np.uint8]:
    """Ids of rows, 16 bytes each."""
    return np.ascontiguousarray(rows[:, 5:]).view(np.uint8)


def id_of(row: Numbers) -> str:
    """The id in one row."""
    return id_from_bytes(row[5:].tobytes())


def key_of(row: Numbers) -> bytes:
    """The key in one row."""
    return row[:2].tobytes()


def claim_of(row: Numbers) -> Claim:
    """The claim in one row."""
    offset, event_ms, append_ms = row[_OFFSET : _APPEND_MS + 1].tolist()
    return Claim(key_of(row), offset, event_ms, append_ms, id_of(row))


def rows_of_claims(claims: Sequence[Claim]) -> Rows:
    """The same of single claims."""
    keys, offsets, event_ms, append_ms, ids = zip(*claims, strict=True) if claims else [()] * 5
    return rows_of(keys, offsets, event_ms, append_ms, ids)


def rows_from(raw: bytes) -> Rows:
    """Owners as they lie in Redis."""
    return np.frombuffer(raw, np.int64).reshape(-1, _COLUMNS)


def fingerprints(rows: Rows, window_ms: int) -> Fingerprints:
    """Fingerprints of keys and time slices for the claim index, never 0.

    Slices are W long: an event less than W away is in the same one or the next.

    Some slices together are part of the hash, so that a key which returns for ever (an import under one execution)
    meets few owners.
    """
    return _fingerprints(rows, rows[:, _EVENT_MS] // window_ms)


def fingerprints_near(rows: Rows, window_ms: int) -> tuple[npt.NDArray[np.int64], Fingerprints]:
    """By what the index finds all owners of events: fingerprints, and which event each is of."""
    slices = rows[:, _EVENT_MS] // window_ms
    at = slices & SLICE_MASK
    before, after = np.flatnonzero(at == 0), np.flatnonzero(at == SLICE_MASK)
    of = np.concatenate([np.arange(len(rows)), before, after])
    away = np.repeat([0, -1, 1], [len(rows), len(before), len(after)])
    return of, _fingerprints(rows[of], slices[of] + away)


def _fingerprints(rows: Rows, slices: Numbers) -> Fingerprints:
    keys = np.ascontiguousarray(rows[:, 0]).view(np.uint64)
    spread = (slices >> SLICE_BITS).astype(np.uint64) * _SPREAD
    hashed = (((keys + spread) * _SECRET) >> np.uint64(32 + SLICE_BITS)).astype(np.uint32)
    of_slice = (slices & SLICE_MASK).astype(np.uint32)
    made: Fingerprints = np.maximum(hashed << np.uint32(SLICE_BITS) | of_slice, 1)
    return made


def last_offset(rows: Rows) -> int:
    """The last offset of events in offset order."""
    return int(rows[-1, _OFFSET])


def last_append_ms(rows: Rows) -> int:
    """The highest append time."""
    return int(rows[:, _APPEND_MS].max())


def rows_with_repeated_key(rows: Rows) -> npt.NDArray[np.int64]:
    """The positions of all rows whose key comes more than once."""
    keys = rows[:, 0]
    order = np.argsort(keys, kind="stable")
    sorted_keys = keys[order]
    is_same_as_next = sorted_keys[1:] == sorted_keys[:-1]
    repeated = np.zeros(len(keys), bool)
    repeated[1:] |= is_same_as_next
    repeated[:-1] |= is_same_as_next
    return order[repeated]


@dataclass
class Verdict:
    """Results for events that may have an owner, by position."""

    duplicates: dict[int, Owner] = field(default_factory=dict)
    not_owners: list[int] = field(default_factory=list)
    """Events that do not begin to own their key now; they may own it already."""
    dead: list[int] = field(default_factory=list)
    """Numbers of claims that own nothing any more."""


class DuplicateResolver:
    """Applies the rule (`schemas/dedup.py`) to events in offset order, given the owners that they may have."""

    def __init__(self, window_ms: int) -> None:
        self._window_ms = window_ms
        self._owners: dict[tuple[bytes, int], list[Known]] = defaultdict(list)

    def learn(self, raw: bytes, numbers: Iterable[int]) -> None:
        """Owners that were read."""
        for (key, offset, event_ms, append_ms, raw_id), number in zip(_OWNER.iter_unpack(raw), numbers, strict=True):
            if offset != _DEAD:
                self._add(key, Known(offset, event_ms, append_ms, raw_id, number))

    def _add(self, key: bytes, owner: Known) -> None:
        self._owners[key, owner.event_ms // self._window_ms].append(owner)

    def resolve(self, rows: Rows, positions: Sequence[int], flags: Mapping[int, int]) -> Verdict:
        """Resolve the events at `positions`, which are in offset order; what they own is known to those after them."""
        verdict = Verdict()
        asking = _OWNER.iter_unpack(rows[np.array(positions, np.int64)].tobytes())
        for at, (key, offset, event_ms, append_ms, raw_id) in zip(positions, asking, strict=True):
            self._resolve(at, key, Known(offset, event_ms, append_ms, raw_id, None), flags.get(at, 0), verdict)
        return verdict

    def _resolve(self, at: int, key: bytes, event: Known, flags: int, verdict: Verdict) -> None:
        near = self._near(key, event)
        mine = next((each for each in near if each[:4] == event[:4]), None)
        owner = None if flags & STORED else self._owner_of(event, near, bool(flags & REPLAYED))
        if owner is not None:
            verdict.duplicates[at] = Owner(owner.offset, id_from_bytes(owner.raw_id))
        owns_nothing = owner is not None or bool(flags & ASKS_ONLY)
        if owns_nothing and mine is not None and mine.number is not None:
            # It was an owner until an event before it was refused by the table, and another took that one's place.
            verdict.dead.append(mine.number)
            self._owners[key, mine.event_ms // self._window_ms].remove(mine)
        if owns_nothing or mine is not None:
            verdict.not_owners.append(at)
        else:
            self._add(key, event)

    def _near(self, key: bytes, event: Known) -> list[Known]:
        """The owners of a key that are less than W away, and some more."""
        at = event.event_ms // self._window_ms
        return [each for number in (at - 1, at, at + 1) for each in self._owners.get((key, number), ())]

    def _owner_of(self, event: Known, near: list[Known], replayed: bool) -> Known | None:
        window_ms = self._window_ms
        owners = (
            each
            for each in near
            if each.offset < event.offset
            and abs(event.event_ms - each.event_ms) < window_ms
            and (replayed or event.append_ms - each.append_ms < 2 * window_ms)
        )
        return min(owners, default=None, key=lambda each: each.offset)
