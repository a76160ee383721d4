"""Owners of claims as rows of seven signed 64-bit integers, and the dedup rule applied to them."""

import secrets
import struct
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kernels.boundary import SLICE_BITS, SLICE_MASK, Fingerprints
from schemas.dedup import is_duplicate_of
from schemas.identity import id_bytes, id_from_bytes

OwnerRows = npt.NDArray[np.int64]
"""One owner per row, as stored in Redis: key (2 integers), offset, event time, append time, id (2 integers)."""

Int64Array = npt.NDArray[np.int64]

OWNER_BYTES = 56
_COLUMNS = OWNER_BYTES // 8
_OFFSET, _EVENT_MS, _APPEND_MS = 2, 3, 4
OFFSET_AT = 8 * _OFFSET
"""Position of the offset among an owner's bytes."""
TOMBSTONE_OFFSET = -1
"""Offset of an owner that owns nothing any more."""

LOOKUP_ONLY, REPLAYED, STORED = 1, 2, 4
"""Flags of an event. LOOKUP_ONLY: not stored, only its owner is looked up. REPLAYED: it is a replayed dead
letter. STORED: it has a row, and owns its key in any case."""

_OWNER = struct.Struct("<16sqqq16s")
_SPREAD = np.uint64(0x9E3779B97F4A7C15)
_SECRET = np.uint64(secrets.randbits(64) | 1)
"""Seed of this process: without it a sender could choose event times that all collide in the index."""


class Owner(NamedTuple):
    """Stored event that another one is a duplicate of."""

    offset: int
    interaction_id: str


class KnownOwner(NamedTuple):
    """Owner that was read from a store, or has just claimed its key. `number` is its claim's in Redis, if known."""

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
) -> OwnerRows:
    """Make rows from columns of Python values."""
    ids = np.frombuffer(b"".join(map(id_bytes, interaction_ids)), np.uint8)
    return make_rows(b"".join(keys), np.array(offsets), np.array(event_ms), np.array(append_ms), ids)


def make_rows(
    keys: bytes, offsets: Int64Array, event_ms: Int64Array, append_ms: Int64Array, ids: npt.NDArray[np.uint8]
) -> OwnerRows:
    """Make rows from columns; keys and ids are concatenated bytes, 16 each."""
    rows = np.empty((len(offsets), _COLUMNS), np.int64)
    rows[:, :2] = np.frombuffer(keys, np.int64).reshape(-1, 2)
    rows[:, _OFFSET] = offsets
    rows[:, _EVENT_MS] = event_ms
    rows[:, _APPEND_MS] = append_ms
    rows[:, 5:] = np.ascontiguousarray(ids).reshape(-1).view(np.int64).reshape(-1, 2)
    return rows


def offsets_of(rows: OwnerRows) -> Int64Array:
    """Return the offsets of rows, or of one row."""
    return rows[..., _OFFSET]


def event_ms_of(rows: OwnerRows) -> Int64Array:
    """Return the event times of rows, or of one row."""
    return rows[..., _EVENT_MS]


def append_ms_of(rows: OwnerRows) -> Int64Array:
    """Return the append times of rows, or of one row."""
    return rows[..., _APPEND_MS]


def raw_ids_of(rows: OwnerRows) -> npt.NDArray[np.uint8]:
    """Return the ids of rows, 16 bytes each."""
    return np.ascontiguousarray(rows[:, 5:]).view(np.uint8)


def id_of(row: Int64Array) -> str:
    """Return the id in one row."""
    return id_from_bytes(row[5:].tobytes())


def key_of(row: Int64Array) -> bytes:
    """Return the key in one row."""
    return row[:2].tobytes()


def rows_from(raw: bytes) -> OwnerRows:
    """View a chunk of Redis as rows."""
    return np.frombuffer(raw, np.int64).reshape(-1, _COLUMNS)


def fingerprints(rows: OwnerRows, window_ms: int) -> Fingerprints:
    """Return fingerprints of keys and time slices for the claim index, never 0.

    A slice is W long, so an owner's event time (`schemas/dedup.py`) is in the slice of its duplicate or in the next
    one. The slice's higher bits are part of the hash, so that a key that keeps returning (an import under one
    execution) has few owners per fingerprint.
    """
    return _fingerprints(rows, rows[:, _EVENT_MS] // window_ms)


def fingerprints_near(rows: OwnerRows, window_ms: int) -> tuple[Int64Array, Fingerprints]:
    """Return the row of an event for each fingerprint, and the fingerprints that find all its possible owners."""
    slices = rows[:, _EVENT_MS] // window_ms
    at = slices & SLICE_MASK
    before, after = np.flatnonzero(at == 0), np.flatnonzero(at == SLICE_MASK)
    of = np.concatenate([np.arange(len(rows)), before, after])
    away = np.repeat([0, -1, 1], [len(rows), len(before), len(after)])
    return of, _fingerprints(rows[of], slices[of] + away)


def _fingerprints(rows: OwnerRows, slices: Int64Array) -> Fingerprints:
    keys = np.ascontiguousarray(rows[:, 0]).view(np.uint64)
    spread = (slices >> SLICE_BITS).astype(np.uint64) * _SPREAD
    hashed = (((keys + spread) * _SECRET) >> np.uint64(32 + SLICE_BITS)).astype(np.uint32)
    of_slice = (slices & SLICE_MASK).astype(np.uint32)
    made: Fingerprints = np.maximum(hashed << np.uint32(SLICE_BITS) | of_slice, 1)
    return made


def rows_with_repeated_key(rows: OwnerRows) -> Int64Array:
    """Return the positions of all rows whose key occurs more than once."""
    keys = rows[:, 0]
    order = np.argsort(keys, kind="stable")
    sorted_keys = keys[order]
    is_same_as_next = sorted_keys[1:] == sorted_keys[:-1]
    repeated = np.zeros(len(keys), bool)
    repeated[1:] |= is_same_as_next
    repeated[:-1] |= is_same_as_next
    return order[repeated]


@dataclass
class Resolution:
    """Results for events that may have an owner, by position."""

    duplicates: dict[int, Owner] = field(default_factory=dict)
    not_new_owners: list[int] = field(default_factory=list)
    """Events that take no new claim: duplicates, lookups, and events that own their key already."""
    tombstoned: list[int] = field(default_factory=list)
    """Numbers of claims that own nothing any more."""


class DuplicateResolver:
    """Resolver of duplicates: applies the dedup rule to events in offset order, given the owners that they may have."""

    def __init__(self, window_ms: int) -> None:
        self._window_ms = window_ms
        self._owners: dict[tuple[bytes, int], list[KnownOwner]] = defaultdict(list)

    def learn(self, raw: bytes, numbers: Iterable[int]) -> None:
        """Add owners that were read from Redis, with the numbers of their claims."""
        for (key, offset, event_ms, append_ms, raw_id), number in zip(_OWNER.iter_unpack(raw), numbers, strict=True):
            if offset != TOMBSTONE_OFFSET:
                self._add(key, KnownOwner(offset, event_ms, append_ms, raw_id, number))

    def _add(self, key: bytes, owner: KnownOwner) -> None:
        self._owners[key, owner.event_ms // self._window_ms].append(owner)

    def resolve(self, rows: OwnerRows, positions: Sequence[int], flags: Mapping[int, int]) -> Resolution:
        """Resolve the events at `positions`, in offset order; each new owner is known to the events after it."""
        resolution = Resolution()
        asking = _OWNER.iter_unpack(rows[np.array(positions, np.int64)].tobytes())
        for at, (key, offset, event_ms, append_ms, raw_id) in zip(positions, asking, strict=True):
            event = KnownOwner(offset, event_ms, append_ms, raw_id, None)
            self._resolve(at, key, event, flags.get(at, 0), resolution)
        return resolution

    def _resolve(self, at: int, key: bytes, event: KnownOwner, flags: int, resolution: Resolution) -> None:
        near = self._near(key, event)
        own = next((each for each in near if each[:4] == event[:4]), None)
        owner = None if flags & STORED else self._owner_of(event, near, bool(flags & REPLAYED))
        if owner is not None:
            resolution.duplicates[at] = Owner(owner.offset, id_from_bytes(owner.raw_id))
        owns_nothing = owner is not None or bool(flags & LOOKUP_ONLY)
        if owns_nothing and own is not None and own.number is not None:
            # It owned its key until ClickHouse refused an earlier event; since then another event owns the key.
            resolution.tombstoned.append(own.number)
            self._owners[key, own.event_ms // self._window_ms].remove(own)
        if owns_nothing or own is not None:
            resolution.not_new_owners.append(at)
        else:
            self._add(key, event)

    def _near(self, key: bytes, event: KnownOwner) -> list[KnownOwner]:
        """Return a key's owners in the event's time slice and its neighbours, with all owners less than W away."""
        at = event.event_ms // self._window_ms
        return [each for number in (at - 1, at, at + 1) for each in self._owners.get((key, number), ())]

    def _owner_of(self, event: KnownOwner, near: list[KnownOwner], replayed: bool) -> KnownOwner | None:
        owners = [each for each in near if is_duplicate_of(event, each, self._window_ms, replayed=replayed)]
        return min(owners, default=None, key=lambda each: each.offset)
