"""Deduplication: decides for every event of a batch whether it is stored, and if not, whose duplicate it is."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress

from consumers import seams
from consumers.batch import Batch, Duplicate, Event, Judged, Slice, Verdicts
from consumers.leases import Leases, Unsettled, span_of
from consumers.stored_owners import StoredOwners
from runtime.claims import ClaimsLost
from runtime.owners import ASKS_ONLY, REPLAYED, STORED, Claim, Owner, Rows, rows_of
from schemas.dedup import DuplicateReason


class Deduplication:
    """Decides partition by partition in offset order. Deciding again, after whatever crash, gives the same verdicts."""

    def __init__(self, leases: Leases, owners: StoredOwners) -> None:
        self._leases = leases
        self._owners = owners

    async def decide(self, batch: Batch, judged: Judged, before: Batch | None) -> Verdicts:
        """Claim every event's key, also of those that are stored; `before` is the batch that is not committed yet.

        Raises Fenced when another worker has a partition; and Unsettled when `before` has to be finished first.
        """
        if before is not None and any(event.may_repeat_id or event.replayed for event in judged.events):
            raise Unsettled  # their owners are looked for among stored rows
        verdicts = Verdicts()
        events, stored = _by_partition(judged.events), _by_partition(judged.stored)
        for part in batch.slices:
            done = {event.offset for event in stored[part.partition]}
            ours = events[part.partition] + stored[part.partition]
            if done:
                ours.sort(key=lambda event: event.offset)
            found = await self._decide_again_when_lost(part, ours, done, before)
            verdicts.stored += found.stored
            verdicts.duplicates += found.duplicates
        await seams.reached("claimed")
        return verdicts

    async def _decide_again_when_lost(
        self, part: Slice, events: list[Event], done: set[int], before: Batch | None
    ) -> Verdicts:
        """What is rebuilt knows only stored events: those of this slice that have claimed already claim again."""
        while True:
            verdicts = Verdicts()
            try:
                await self._decide(part, events, done, before, verdicts)
            except ClaimsLost:
                continue
            return verdicts

    async def _decide(
        self, part: Slice, events: list[Event], done: set[int], before: Batch | None, into: Verdicts
    ) -> None:
        """`done` are the offsets of those that have a row: nothing is decided about them."""
        stored: set[_Identity] = set()
        for group, is_last in _cut_at_repeated_ids(events, stored):
            undecided = [event for event in group if event.offset not in done] if done else group
            repeated = {event.offset for event in undecided if _identity(event) in stored} if stored else set()
            repeated |= await self._owners.of_same_id(event for event in undecided if event.offset not in repeated)
            owners = await self._owners.of_replayed(event for event in undecided if event.offset not in repeated)
            asking = [event for event in group if event.key is not None]
            span = span_of(part)
            if not is_last:
                span = span._replace(last_offset=group[-1].offset, last_append_ms=max(each.append_ms for each in group))
            flags = _flags(asking, owners, repeated, done)
            for at, owner in (await self._leases.claim(part, span, _rows(asking), flags, before)).items():
                offset = asking[at].offset
                owners[offset] = min(owner, owners.get(offset, owner))
            _divide(undecided, owners, repeated, into)
            if not is_last:
                stored |= {
                    _identity(event) for event in group if event.offset in repeated or event.offset not in owners
                }

    async def release(self, part: Slice, event: Event) -> None:
        """Take back the claim of an event that ClickHouse will not store."""
        if event.key is not None:
            claim = Claim(event.key, event.offset, event.event_ms, event.append_ms, event.interaction_id)
            with suppress(ClaimsLost):  # then it is gone with all others
                await self._leases.release(part, claim)


def _by_partition(events: Iterable[Event]) -> dict[int, list[Event]]:
    found: dict[int, list[Event]] = defaultdict(list)
    for event in events:
        found[event.partition].append(event)
    return found


_Identity = tuple[str, str]


def _identity(event: Event) -> _Identity:
    return event.namespace, event.interaction_id


def _cut_at_repeated_ids(events: list[Event], stored: set[_Identity]) -> Iterator[tuple[list[Event], bool]]:
    """Cut where an id comes again that is not in `stored` yet, and say which group is the last; there is always one.

    Whether the second is a duplicate depends on whether the first gets stored, so `stored` is looked at anew
    after each group.
    """
    if not any(event.may_repeat_id for event in events):
        yield events, True
        return
    group: list[Event] = []
    ids: set[_Identity] = set()
    for event in events:
        identity = _identity(event)
        if event.may_repeat_id and identity in ids and identity not in stored:
            yield group, False
            group, ids = [], set()
        group.append(event)
        ids.add(identity)
    yield group, True


def _rows(events: list[Event]) -> Rows:
    return rows_of(
        [event.key or b"" for event in events],
        [event.offset for event in events],
        [event.event_ms for event in events],
        [event.append_ms for event in events],
        [event.interaction_id for event in events],
    )


def _flags(events: list[Event], owners: Mapping[int, Owner], repeated: set[int], done: set[int]) -> dict[int, int]:
    """Of those events that have any, by position."""
    flags: dict[int, int] = {}
    if owners or repeated or done or any(event.replayed for event in events):
        for at, event in enumerate(events):
            asks_only = event.offset in owners or event.offset in repeated
            flag = ASKS_ONLY * asks_only + REPLAYED * event.replayed + STORED * (event.offset in done)
            if flag:
                flags[at] = flag
    return flags


def _divide(events: list[Event], owners: Mapping[int, Owner], repeated: set[int], into: Verdicts) -> None:
    """Put each event where it belongs."""
    into.stored += [event for event in events if event.offset not in owners and event.offset not in repeated]
    for event in events if owners or repeated else ():
        if event.offset in repeated:
            into.duplicates.append(Duplicate(event, event.interaction_id, "same_id"))
        elif event.offset in owners:
            why: DuplicateReason = "replayed" if event.replayed else "same_key"
            into.duplicates.append(Duplicate(event, owners[event.offset].interaction_id, why))
