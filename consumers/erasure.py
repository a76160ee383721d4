"""Erasure: what is deleted must not become visible, whenever it is stored.

A deletion is written down before it is made true of rows (`runtime/deletions.py`); here it is the other way round.
Events whose deletion is known are stored as tombstones. Rows that are stored are looked at once more: a deletion that
came between the two is made true of them, before their offsets are committed. So whichever comes last sees the other.
"""

import time
from collections.abc import Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from consumers.claims.owners import raw_ids_of
from consumers.events import Events, Flags
from runtime.deletions import Deletion, Deletions
from runtime.retry import retrying
from schemas.identity import PREFIX, id_from_bytes

MOST = 10_000
"""Deletions that are looked at together. Where there are more from an id on, exactly the ids in question are asked."""
MARGIN_MS = 60_000
"""The ids of the next batches may be older or younger than these by so much, and are asked for with them."""
FRESH_S = 1.0
"""Time that looked-up deletions are used; later ones are found when the rows are checked again."""

RawIds = npt.NDArray[np.uint8]


class Erasure:
    """Knows what is deleted of the events that one worker stores: usually nothing, and then it is asked for rarely."""

    def __init__(self, deletions: Deletions) -> None:
        self._deletions = deletions
        self._known: Sequence[Deletion] = ()
        self._from_ms = self._to_ms = 0
        self._until = 0.0

    async def deleted(self, events: Events) -> Flags:
        """Which of these events are deleted already."""
        flags = np.zeros(len(events), np.bool_)
        known = await self._of(raw_ids_of(events.rows), fresh_s=FRESH_S) if len(events) else ()
        wanted = set(known)
        for line in _lines_of(known, raw_ids_of(events.rows)):
            flags[line] = Deletion(events.id_at(line), events.namespace_at(line)) in wanted
        return flags

    async def erase(self, stored: Sequence[RawIds]) -> int:
        """Make deletions true of rows that have just been stored; returns how many may have been."""
        raw_ids = np.concatenate(stored) if stored else np.empty((0, 16), np.uint8)
        if not len(raw_ids):
            return 0
        known = await self._of(raw_ids, fresh_s=0)
        ids = {id_from_bytes(raw_ids[line].tobytes()) for line in _lines_of(known, raw_ids)}
        gone = [each for each in known if each.interaction_id in ids]
        if gone:
            await retrying("erasing what is deleted", partial(self._deletions.erase, gone))
        return len(gone)

    async def _of(self, raw_ids: RawIds, fresh_s: float) -> Sequence[Deletion]:
        """All deletions of these ids, and perhaps of others."""
        times = _first_halves(raw_ids) >> np.uint64(16)  # an id begins with 48 bits of time, in ms since 1970
        lowest_ms, highest_ms = int(times.min()), int(times.max())
        is_fresh = fresh_s and time.monotonic() < self._until
        if is_fresh and self._from_ms <= lowest_ms and highest_ms < self._to_ms:
            return self._known
        from_ms, to_ms = max(0, lowest_ms - MARGIN_MS), highest_ms + MARGIN_MS
        until = time.monotonic() + FRESH_S
        ids_between = partial(self._deletions.between, _lowest_id(from_ms), _lowest_id(to_ms), MOST + 1)
        found = await retrying("looking for deletions", ids_between)
        if len(found) <= MOST:
            self._known, self._from_ms, self._to_ms, self._until = found, from_ms, to_ms, until
            return found
        ids = [id_from_bytes(raw.tobytes()) for raw in raw_ids]
        return await retrying("looking for deletions", partial(self._deletions.among, ids))


def _lowest_id(time_ms: int) -> str:
    """No id of this time or a later one is lower; ids of the latest times have twelve digits all the same."""
    return f"{PREFIX}{time_ms:012x}" if time_ms < 2**48 else f"{PREFIX}g"


def _first_halves(raw_ids: RawIds) -> npt.NDArray[np.uint64]:
    return np.ascontiguousarray(raw_ids[:, :8]).view(">u8")[:, 0].astype(np.uint64)


def _lines_of(known: Sequence[Deletion], raw_ids: RawIds) -> list[int]:
    """Which of these ids may be among the deletions: those with the same first half."""
    if not known:
        return []
    firsts = np.array([int(each.interaction_id[len(PREFIX) : len(PREFIX) + 16], 16) for each in known], np.uint64)
    return [int(line) for line in np.flatnonzero(np.isin(_first_halves(raw_ids), firsts))]
