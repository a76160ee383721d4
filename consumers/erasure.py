"""Erasure: a deleted event must not become visible, whenever it is stored.

A deletion is recorded before rows are erased (`runtime/deletions.py`); a worker inserts rows before it looks for
deletions. Events whose deletion is known are stored as tombstones. After the insert deletions are looked up again, and
rows erased that were deleted meanwhile, before their offsets are committed. The later of the two sees the earlier one.
"""

import time
from collections.abc import Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from consumers.claims.owners import raw_ids_of
from consumers.events import Events, LineFlags
from runtime.deletions import Deletion, Deletions
from runtime.retry import retrying
from schemas.identity import PREFIX, id_from_bytes

MAX_DELETIONS = 10_000
"""Maximum deletions of a lookup by id range. Where there are more, exactly a batch's ids are looked up."""
MARGIN_MS = 60_000
"""Time by which a lookup's id range extends those of a batch, for the ids of the next batches."""
FRESH_S = 1.0
"""Time that looked-up deletions are used; later deletions are found after the insert."""

RawIds = npt.NDArray[np.uint8]


class Erasure:
    """Deletions among the events that one worker stores; usually none, and then they are looked up rarely."""

    def __init__(self, deletions: Deletions) -> None:
        self._deletions = deletions
        self._known: Sequence[Deletion] = ()
        self._from_ms = self._to_ms = 0
        self._until = 0.0

    async def deleted(self, events: Events) -> LineFlags:
        """Return flags of events that are deleted already."""
        flags = np.zeros(len(events), np.bool_)
        known = await self._of(raw_ids_of(events.rows), fresh_s=FRESH_S) if len(events) else ()
        wanted = set(known)
        for line in _lines_of(known, raw_ids_of(events.rows)):
            flags[line] = Deletion(events.id_at(line), events.namespace_at(line)) in wanted
        return flags

    async def erase(self, stored: Sequence[RawIds]) -> Sequence[Deletion]:
        """Erase the deleted rows among rows that have just been stored; returns their deletions."""
        raw_ids = np.concatenate(stored) if stored else np.empty((0, 16), np.uint8)
        if not len(raw_ids):
            return ()
        known = await self._of(raw_ids, fresh_s=0)
        ids = {id_from_bytes(raw_ids[line].tobytes()) for line in _lines_of(known, raw_ids)}
        gone = [each for each in known if each.interaction_id in ids]
        if gone:
            await retrying("erasing deleted events", partial(self._deletions.erase, gone))
        return gone

    async def _of(self, raw_ids: RawIds, fresh_s: float) -> Sequence[Deletion]:
        """Return all deletions of these ids, and perhaps of others."""
        times = _first_halves(raw_ids) >> np.uint64(16)  # an id begins with 48 bits of time, in ms since 1970
        lowest_ms, highest_ms = int(times.min()), int(times.max())
        is_fresh = fresh_s and time.monotonic() < self._until
        if is_fresh and self._from_ms <= lowest_ms and highest_ms < self._to_ms:
            return self._known
        from_ms, to_ms = max(0, lowest_ms - MARGIN_MS), highest_ms + MARGIN_MS
        until = time.monotonic() + FRESH_S
        ids_between = partial(self._deletions.between, _lowest_id(from_ms), _lowest_id(to_ms), MAX_DELETIONS + 1)
        found = await retrying("looking for deletions", ids_between)
        if len(found) <= MAX_DELETIONS:
            self._known, self._from_ms, self._to_ms, self._until = found, from_ms, to_ms, until
            return found
        ids = [id_from_bytes(raw.tobytes()) for raw in raw_ids]
        return await retrying("looking for deletions", partial(self._deletions.among, ids))


def _lowest_id(time_ms: int) -> str:
    """Return a lower bound of ids of this time and later ones; 2**48 ms and later are past every id."""
    return f"{PREFIX}{time_ms:012x}" if time_ms < 2**48 else f"{PREFIX}g"


def _first_halves(raw_ids: RawIds) -> npt.NDArray[np.uint64]:
    return np.ascontiguousarray(raw_ids[:, :8]).view(">u8")[:, 0].astype(np.uint64)


def _lines_of(known: Sequence[Deletion], raw_ids: RawIds) -> list[int]:
    """Return the lines of ids that may be among the deletions: those with the same first half."""
    if not known:
        return []
    firsts = np.array([int(each.interaction_id[len(PREFIX) : len(PREFIX) + 16], 16) for each in known], np.uint64)
    return [int(line) for line in np.flatnonzero(np.isin(_first_halves(raw_ids), firsts))]
