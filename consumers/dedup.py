"""Deduplication: decides for every event of a batch whether it is stored or which stored event it repeats.

The rule itself is in `schemas/dedup.py`. Here its inputs are gathered: claims, and rows that are older than any claim.
"""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np

from consumers import failpoints
from consumers.batch import Batch, Duplicates, Range, Slice, ValidatedBatch, Verdicts
from consumers.claims.client import ClaimsLost
from consumers.claims.leases import FlushRequired, Leases, span_of
from consumers.claims.owners import LOOKUP_ONLY, REPLAYED, STORED, Owner
from consumers.claims.stored_owners import StoredOwners
from consumers.events import Events, LineFlags
from schemas.dedup import DuplicateReason


class _DuplicateOwner(NamedTuple):
    """Owner of a duplicate, and why it is one."""

    interaction_id: str
    reason: DuplicateReason


_Found = dict[int, _DuplicateOwner]
"""Duplicates among events, by line."""


class Deduplication:
    """Decides partition by partition in offset order. Deciding again after any crash gives the same verdicts."""

    def __init__(self, leases: Leases, owners: StoredOwners) -> None:
        self._leases = leases
        self._owners = owners

    async def decide(self, batch: Batch, validated: ValidatedBatch, before: Sequence[Range]) -> Verdicts:
        """Claim every event's key, also of events that have a row. `before`: ranges that are not committed yet.

        Raises Fenced when another worker has a partition; and FlushRequired when `before` has to be committed first.
        """
        events, found = validated.events, _Found()
        if before and (events.may_repeat_id | events.replayed).any():
            raise FlushRequired  # owners of these events are looked up among stored rows
        places = [events.lines_of(part.partition) for part in batch.slices]
        deciding = (
            self._decide_until_claimed(part, events[first:end], validated.done[first:end], before)
            for part, (first, end) in zip(batch.slices, places, strict=True)
        )
        # Partitions have no key in common. All are awaited, also when one raises: no claim may continue after return.
        of_parts = await asyncio.gather(*deciding, return_exceptions=True)
        for (first, _), of_part in zip(places, of_parts, strict=True):
            if isinstance(of_part, BaseException):
                raise of_part
            found.update((first + line, owned) for line, owned in of_part.items())
        self._leases.publish()
        await failpoints.reached("claimed")
        return _verdicts(validated, found)

    async def _decide_until_claimed(
        self, part: Slice, events: Events, done: LineFlags, before: Sequence[Range]
    ) -> _Found:
        """Decide about a slice, again after lost claims: rebuilt claims are those of stored events only."""
        while True:
            try:
                return await self._decide(part, events, done, before)
            except ClaimsLost:
                continue

    async def _decide(self, part: Slice, events: Events, done: LineFlags, before: Sequence[Range]) -> _Found:
        found, stored = _Found(), set[_Identity]()
        for first, end in _cut_at_repeated_ids(events, stored):
            distinct, is_last = events[first:end], end == len(events)
            of_distinct = await self._decide_distinct(part, distinct, done[first:end], stored, is_last, before)
            found.update((first + line, owned) for line, owned in of_distinct.items())
            if not is_last:
                stored |= {
                    _identity(distinct, line)
                    for line in range(len(distinct))
                    if line not in of_distinct or of_distinct[line].reason == "same_id"
                }
        return found

    async def _decide_distinct(
        self,
        part: Slice,
        events: Events,
        done: LineFlags,
        stored: "set[_Identity]",
        is_last: bool,
        before: Sequence[Range],
    ) -> _Found:
        """Decide about events among which no id occurs twice unless it is among `stored`."""
        repeated, owners = await self._look_up(events, done, stored)
        span = span_of(part)
        if not is_last:
            span = span.up_to(events.rows)
        asking = np.flatnonzero(events.keyed).tolist()
        flags = _flags(asking, events, {*owners, *repeated}, done)
        rows = events.rows if len(asking) == len(events) else events.rows[asking]
        for at, owner in (await self._leases.claim(part, span, rows, flags, before)).items():
            line = asking[at]
            owners[line] = min(owner, owners.get(line, owner))
        replayed = events.replayed
        found = {
            line: _DuplicateOwner(owner.interaction_id, "replayed" if replayed[line] else "same_key")
            for line, owner in owners.items()
        }
        return found | {line: _DuplicateOwner(events.id_at(line), "same_id") for line in repeated}

    async def _look_up(
        self, events: Events, done: LineFlags, stored: "set[_Identity]"
    ) -> tuple[set[int], dict[int, Owner]]:
        """Look up events whose owner may be older than any claim: lines of repeated ids, and other owners by line.

        Only ids from outside, copies of misplaced events and replayed dead letters have such owners.
        """
        repeated = set[int]()
        if stored:
            repeated = {line for line in range(len(events)) if not done[line] and _identity(events, line) in stored}
        lines = np.flatnonzero((events.may_repeat_id | events.replayed) & ~done).tolist()
        asked = {line: events.at(line) for line in lines if line not in repeated}
        line_of = {event.offset: line for line, event in asked.items()}
        repeated |= {line_of[offset] for offset in await self._owners.of_same_id(asked.values())}
        others = [event for line, event in asked.items() if line not in repeated]
        owners = {line_of[offset]: owner for offset, owner in (await self._owners.of_replayed(others)).items()}
        return repeated, owners

    async def release(self, part: Slice, events: Events, before: Sequence[Range] = ()) -> None:
        """Release the claims of events of `part` that will not be stored. Raises as `decide` does."""
        rows = events.rows[events.keyed]
        if len(rows):
            with suppress(ClaimsLost):  # a claim that is lost needs no release
                await self._leases.release(part, rows, before)


_Identity = tuple[str, str]


def _identity(events: Events, line: int) -> _Identity:
    return events.namespace_at(line), events.id_at(line)


def _cut_at_repeated_ids(events: Events, stored: set[_Identity]) -> Iterator[tuple[int, int]]:
    """Cut events before each repeated id that is not in `stored` yet; returns at least one range of lines.

    Whether the repetition is a duplicate depends on whether the first event gets stored, so `stored` is read again
    after each range.
    """
    begin = 0
    if events.may_repeat_id.any():
        ids = set[_Identity]()
        for line in range(len(events)):
            identity = _identity(events, line)
            if events.may_repeat_id[line] and identity in ids and identity not in stored:
                yield begin, line
                begin, ids = line, set()
            ids.add(identity)
    yield begin, len(events)


def _flags(asking: list[int], events: Events, decided: set[int], done: LineFlags) -> dict[int, int]:
    """Return flags by position among the events that claim; events without flags are left out."""
    replayed = events.replayed
    if not (decided or done.any() or replayed.any()):
        return {}
    flags = {
        at: LOOKUP_ONLY * (line in decided) + REPLAYED * bool(replayed[line]) + STORED * bool(done[line])
        for at, line in enumerate(asking)
    }
    return {at: flag for at, flag in flags.items() if flag}


def _verdicts(validated: ValidatedBatch, found: _Found) -> Verdicts:
    events, lines = validated.events, sorted(found)
    is_stored = ~validated.done
    is_stored[lines] = False
    owners, reasons = [found[line].interaction_id for line in lines], [found[line].reason for line in lines]
    duplicates = Duplicates(events[np.array(lines, np.int64)], owners, reasons)
    return Verdicts(events[is_stored], duplicates, events[validated.done])
