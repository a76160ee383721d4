"""Feeds of recent events: each caller follows them with a cursor, and callers of one feed share its work.

A feed belongs to a namespace and its filters. When a caller asks and workers have committed more since, the feed reads
the new range once and keeps it as a tick. An answer merges the ticks after the caller's cursor. A cursor between ticks,
as of another process, is answered by a query of its own up to the end of the feed, and meets the ticks from then on.
"""

import asyncio
from collections import Counter, deque
from typing import Any, NamedTuple

from msgspec import Raw

from readers.event_conditions import EventFilter
from readers.event_cursor import read_position, write_position
from readers.event_models import VERDICTS, RecentQuery
from readers.event_ticks import EventRange, Tick, TickReader, newest_of_each
from readers.log_position import LogPosition
from readers.progress import ConsumerProgress
from runtime.clickhouse import ClickHouse
from runtime.errors import StatementTimeout, Unavailable
from runtime.http.errors import unavailable
from runtime.http.in_flight import InFlightLimit
from runtime.settings import Settings

LOOK_BACK_MS = 60_000
"""Age of a cursor up to which all records since it are looked at, and time that ticks are kept."""
MAX_RECORDS = 2_000_000
"""Records of one range, over all partitions. Older ones are skipped."""
FIRST_LOOK_MS = 300_000
FIRST_LOOK_RECORDS = 200_000
"""Bounds of a range without a cursor: age in ms, and records of all partitions."""
MAX_FEEDS = 200
"""Feeds of one process. The one whose last caller is longest ago is dropped for a further one."""
UNUSED_S = 10.0
"""Time after its last caller when a feed is dropped."""


class _FeedKey(NamedTuple):
    namespace: str
    filters: EventFilter


class _Feed:
    """Ticks of a namespace's events that match filters; the end of each is the start of the next."""

    def __init__(self, key: _FeedKey) -> None:
        self.key = key
        self.lock = asyncio.Lock()
        self.ticks: deque[Tick] = deque()
        self.end: LogPosition | None = None
        self.first_look: Tick | None = None
        self.expiry: asyncio.TimerHandle | None = None

    @property
    def nbytes(self) -> int:
        return sum(each.nbytes for each in self.ticks)

    def after(self, cursor: LogPosition, end: LogPosition) -> list[Tick] | None:
        """Return the ticks after a cursor; None if it is at no tick's start, or a tick begins at a later time."""
        if cursor.offsets == end.offsets:
            return []
        for number, tick in enumerate(self.ticks):
            if tick.start.offsets == cursor.offsets and tick.start.settled_ms <= cursor.settled_ms:
                return list(self.ticks)[number:]
        return None


class EventFeeds:
    """Feeds of one process. Raises ApiError and Unavailable."""

    def __init__(
        self, settings: Settings, database: ClickHouse, progress: ConsumerProgress, limit: InFlightLimit
    ) -> None:
        self._settings = settings
        self._reader = TickReader(settings, database)
        self._progress = progress
        self._limit = limit
        self._feeds: dict[_FeedKey, _Feed] = {}

    def close(self) -> None:
        """Drop all feeds."""
        for key in list(self._feeds):
            self._drop(key)

    async def recent(self, namespace: str, query: RecentQuery) -> dict[str, Any]:
        """Return the events since the request's cursor, as `RecentEvents`."""
        if not self._settings.kafka:
            raise unavailable("recent events need the progress of the workers: set TALLY_KAFKA for this process")
        cursor = read_position(query.cursor) if query.cursor else None
        feed = self._feed(_FeedKey(namespace, EventFilter.of(query.verdicts, query.model_dump())))
        async with feed.lock:
            end = await self._extend(feed)
            ticks = await self._ticks_after(feed, cursor, end)
        counts: Counter[str] = Counter()
        for tick in ticks:
            counts.update(tick.counts)
        shown = newest_of_each([event for tick in ticks for event in tick.events], query.limit)
        return {
            "cursor": write_position(_next_cursor(cursor, end)),
            "events": [Raw(each.text) for each in shown],
            "counts": {verdict: counts[verdict] for verdict in VERDICTS},
            "shown": len(shown),
            "sampled": counts.total() > len(shown),
            "skipped": sum(tick.skipped for tick in ticks),
            "in_flight": sum(self._progress.waiting.values()),
            "lag_ms": self._progress.lag_ms,
        }

    def _feed(self, key: _FeedKey) -> _Feed:
        """Return the feed of a key, as the one that was called last, and put its expiry off."""
        feed = self._feeds.pop(key, None) or _Feed(key)
        while len(self._feeds) >= MAX_FEEDS:
            self._drop(next(iter(self._feeds)))
        self._feeds[key] = feed
        if feed.expiry is not None:
            feed.expiry.cancel()
        feed.expiry = asyncio.get_running_loop().call_later(UNUSED_S, self._drop, key)
        return feed

    def _drop(self, key: _FeedKey) -> None:
        feed = self._feeds.pop(key, None)
        if feed is not None and feed.expiry is not None:
            feed.expiry.cancel()

    async def _extend(self, feed: _Feed) -> LogPosition:
        """Read the range from the feed's end to the position of the workers, and return that position."""
        await self._check_progress()
        now = self._progress.positions[-1]
        before = feed.end or now
        if before.offsets != now.offsets:
            self._keep(feed, await self._tick(feed.key, before, now))
        feed.end = now
        while feed.ticks and now.at_ms - feed.ticks[0].end.at_ms > LOOK_BACK_MS:
            feed.ticks.popleft()
        return now

    async def _check_progress(self) -> None:
        if not self._progress.positions:
            raise unavailable("the progress of the workers is not known yet: retry shortly")
        try:
            await self._progress.check()
        except Unavailable:
            raise unavailable("the progress of the workers is unknown, because Kafka does not answer") from None

    async def _ticks_after(self, feed: _Feed, cursor: LogPosition | None, end: LogPosition) -> list[Tick]:
        if cursor is None or _is_foreign(cursor, end):
            return [await self._first_look(feed, end)]
        found = feed.after(cursor, end)
        if found is None:
            own = await self._tick(feed.key, cursor, end)
            if not feed.ticks and not own.skipped:
                self._keep(feed, own)
            found = [own]
        return found

    async def _first_look(self, feed: _Feed, end: LogPosition) -> Tick:
        """Return the last events, the same for all callers until workers commit more."""
        known = feed.first_look
        if known is None or known.end.offsets != end.offsets:
            most = -(-FIRST_LOOK_RECORDS // max(1, len(end.offsets)))
            first = [max(0, offset - most) for offset in end.offsets]
            wanted = EventRange(first, end.offsets, max(0, end.at_ms - FIRST_LOOK_MS))
            known = feed.first_look = await self._read(feed.key, wanted, end, end)
        return known

    async def _tick(self, key: _FeedKey, start: LogPosition, end: LogPosition) -> Tick:
        """Read the events between two positions, as far back as the bounds allow."""
        first = [start.offset(number) for number in range(len(end.offsets))]
        settled_ms = start.settled_ms
        if end.at_ms - start.at_ms > LOOK_BACK_MS:
            oldest = self._progress.positions[0]
            first = [max(offset, oldest.offset(number)) for number, offset in enumerate(first)]
            settled_ms = max(settled_ms, oldest.settled_ms)
        most = -(-MAX_RECORDS // max(1, len(end.offsets)))
        first = [max(offset, last - most) for offset, last in zip(first, end.offsets, strict=True)]
        skipped = sum(
            max(0, min(offset, last) - start.offset(number))
            for number, (offset, last) in enumerate(zip(first, end.offsets, strict=True))
        )
        wanted = EventRange(first, end.offsets, max(0, settled_ms - self._settings.clock_skew_ms))
        return (await self._read(key, wanted, start, end))._replace(skipped=skipped)

    async def _read(self, key: _FeedKey, wanted: EventRange, start: LogPosition, end: LogPosition) -> Tick:
        try:
            with self._limit.slot():
                counts, events = await self._reader.read(key.namespace, key.filters, wanted)
        except StatementTimeout:
            raise unavailable("reading recent events takes longer than TALLY_LIST_TIMEOUT_MS") from None
        return Tick(start, end, counts, events, nbytes=sum(len(event.text) for event in events))

    def _keep(self, feed: _Feed, tick: Tick) -> None:
        """Keep a tick, and drop the oldest of the largest feeds while all exceed TALLY_RECENT_EVENTS_BYTES."""
        feed.ticks.append(tick)
        sizes = {key: each.nbytes for key, each in self._feeds.items()}
        while sum(sizes.values()) > self._settings.recent_events_bytes:
            largest = max(sizes, key=sizes.__getitem__)
            sizes[largest] -= self._feeds[largest].ticks.popleft().nbytes


def _is_foreign(cursor: LogPosition, end: LogPosition) -> bool:
    """Return whether a cursor is of another topic, or of an earlier one of this name, whose offsets were higher."""
    is_ahead = cursor.after(end) != end.offsets
    return cursor.topic != end.topic or (is_ahead and end.at_ms - cursor.at_ms > LOOK_BACK_MS)


def _next_cursor(cursor: LogPosition | None, end: LogPosition) -> LogPosition:
    """Return the position up to which events are answered: another process may have seen later offsets.

    Such a cursor keeps its age, so that it is given up with `_is_foreign` if no offset ever reaches it.
    """
    if cursor is None or _is_foreign(cursor, end):
        return end
    offsets = cursor.after(end)
    return end if offsets == end.offsets else end._replace(at_ms=min(cursor.at_ms, end.at_ms), offsets=offsets)
