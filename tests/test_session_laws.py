"""Law of session signals, on a real Valkey: whatever is repeated, late, lost or deleted, a whole session is right."""

import uuid
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from runtime.redis import Redis
from runtime.session_signals import (
    AppliedRange,
    LiveSession,
    OpenedSession,
    SessionEvents,
    SessionSignals,
    StoredSession,
    field_of,
)
from runtime.settings import Settings

PARTITIONS, SESSIONS = 2, 3
NOW_MS = 1_790_000_000_000
FEATURES = ("text", "image")


class LogEvent(NamedTuple):
    """Event of a session in the log."""

    session: int
    feature: str
    append_ms: int


@dataclass
class PreparedFlush:
    """Flush of which everything is done but its call to Redis, which may come late or never."""

    ranges: list[AppliedRange]
    sessions: list[SessionEvents]
    emptied: list[int]


@dataclass
class PreparedWrite:
    """Counts that were read from the tables, and are not written yet."""

    session: int
    opened: OpenedSession
    stored: StoredSession


@dataclass
class World:
    """A log, its tables, workers and readers."""

    redis: Redis
    settings: Settings
    signals: SessionSignals = field(init=False)
    log: list[list[LogEvent]] = field(default_factory=lambda: [[] for _ in range(PARTITIONS)])
    stored: list[int] = field(default_factory=lambda: [0] * PARTITIONS)
    """By partition, the offset after the last row."""
    committed: list[int] = field(default_factory=lambda: [0] * PARTITIONS)
    noted: set[tuple[int, int]] = field(default_factory=set)
    """Places of events whose deletion is recorded."""
    erased: set[tuple[int, int]] = field(default_factory=set)
    late: list[PreparedFlush] = field(default_factory=list)
    writes: list[PreparedWrite] = field(default_factory=list)
    deletions: list[tuple[int, int]] = field(default_factory=list)
    """Places of events whose deletion is between its two calls to Redis."""
    snapshot: dict[bytes, bytes] = field(default_factory=dict)
    erased_then: set[tuple[int, int]] = field(default_factory=set)
    fingerprint: str = "a"

    def __post_init__(self) -> None:
        self.signals = SessionSignals(self.settings)

    def session(self, number: int) -> LiveSession:
        return LiveSession("default", "r", 1, f"s-{number}")

    def table(self, session: int, since_ms: int = 0) -> StoredSession:
        """A session as the tables have it."""
        counts: Counter[tuple[str, int]] = Counter()
        offsets: dict[int, int] = {}
        for partition, events in enumerate(self.log):
            for offset, event in enumerate(events[: self.stored[partition]]):
                is_there = (partition, offset) not in self.erased and event.append_ms >= since_ms
                if event.session == session and is_there:
                    counts[event.feature, 1] += 1
                    offsets[partition] = offset
        return StoredSession(dict(counts), offsets, since_ms)

    def prepare(self, count: int) -> PreparedFlush:
        """Store events after the last commit, and erase those whose deletion is recorded, as a worker does."""
        ranges, emptied, events = [], set(), dict[int, list[int]]()
        for partition in range(PARTITIONS):
            first = self.committed[partition]
            following = min(len(self.log[partition]), first + count)
            if first == following:
                continue
            self.stored[partition] = max(self.stored[partition], following)
            ranges.append(AppliedRange(partition, first, following))
            for offset in range(first, following):
                event = self.log[partition][offset]
                if (partition, offset) in self.noted:
                    self.erased.add((partition, offset))
                    emptied.add(event.session)
                else:
                    numbers = [FEATURES.index(event.feature) + 1, partition, offset, event.append_ms]
                    events.setdefault(event.session, []).extend(numbers)
        fields = [field_of(feature, 1) for feature in FEATURES]
        sessions = [SessionEvents(self.session(number).place, fields, found) for number, found in events.items()]
        return PreparedFlush(ranges, sessions, sorted(emptied))

    async def send(self, flush: PreparedFlush) -> None:
        places = [self.session(number).place for number in flush.emptied]
        await self.signals.apply(self.redis, self.fingerprint, flush.ranges, flush.sessions, places)

    # Steps. Each returns nothing and may find nothing to do.

    async def append(self, draw: Any) -> None:
        partition = draw(st.integers(0, PARTITIONS - 1))
        for _ in range(draw(st.integers(1, 4))):
            age_ms = draw(st.sampled_from([0, 0, 0, 1_000]))
            event = LogEvent(draw(st.integers(0, SESSIONS - 1)), draw(st.sampled_from(FEATURES)), NOW_MS - age_ms)
            self.log[partition].append(event)

    async def flush(self, draw: Any) -> None:
        """Flush, and perhaps crash before the commit: the next flush overlaps it."""
        flush = self.prepare(draw(st.integers(1, 6)))
        if draw(st.booleans()) and flush.ranges:
            self.late.append(flush)
        await self.send(flush)
        if draw(st.booleans()):
            for each in flush.ranges:
                self.committed[each.partition] = max(self.committed[each.partition], each.next_offset)

    async def store_only(self, draw: Any) -> None:
        """A worker stores its rows, and is stopped before its call."""
        self.late.append(self.prepare(draw(st.integers(1, 6))))

    async def send_late(self, draw: Any) -> None:
        """A worker that others have replaced continues."""
        if self.late:
            flush = draw(st.sampled_from(self.late))
            if draw(st.booleans()):
                self.late.remove(flush)
            await self.send(flush)

    async def read(self, draw: Any) -> None:
        """A reader counts a session, and writes what it counted, at once or later."""
        session, since_ms = draw(st.integers(0, SESSIONS - 1)), draw(st.sampled_from([0, NOW_MS - 500]))
        (opened,) = await self.signals.open(self.redis, [self.session(session).place])
        prepared = PreparedWrite(session, opened, self.table(session, since_ms))
        if draw(st.booleans()):
            self.writes.append(prepared)
        else:
            await self.write(prepared)

    async def write(self, prepared: PreparedWrite) -> None:
        if not prepared.opened.deletions:
            place = self.session(prepared.session).place
            await self.signals.write(self.redis, [(place, prepared.opened, prepared.stored)])

    async def write_late(self, draw: Any) -> None:
        if self.writes:
            await self.write(self.writes.pop(draw(st.integers(0, len(self.writes) - 1))))

    async def delete(self, draw: Any) -> None:
        """Record a deletion; of a stored event, also begin to erase it, and crash or continue later."""
        places = [(partition, offset) for partition, events in enumerate(self.log) for offset in range(len(events))]
        if not places:
            return
        place = draw(st.sampled_from(places))
        self.noted.add(place)
        if place[1] < self.stored[place[0]] and place not in self.erased:
            await self.empty(place, 1)
            if draw(st.booleans()):
                self.erased.add(place)
                self.deletions.append(place)

    async def end_deletion(self, draw: Any) -> None:
        if self.deletions:
            await self.empty(self.deletions.pop(draw(st.integers(0, len(self.deletions) - 1))), -1)

    async def empty(self, place: tuple[int, int], more: int) -> None:
        partition, offset = place
        session = self.session(self.log[partition][offset].session).place
        await self.signals.empty(self.redis, {session: {partition: offset}}, more)

    async def lose(self, draw: Any) -> None:
        """Some keys are gone."""
        if keys := sorted(await self.keys()):
            await self.redis.delete(*draw(st.lists(st.sampled_from(keys), min_size=1, unique=True)))

    async def keep(self, _draw: Any) -> None:
        self.snapshot = {key: await self.redis.dump(key) or b"" for key in await self.keys()}
        self.erased_then = set(self.erased)

    async def roll_back(self, _draw: Any) -> None:
        """As by a failover to a replica that lagged. Deletions that it loses are a documented limit."""
        if self.snapshot and self.erased_then == self.erased:
            if keys := await self.keys():
                await self.redis.delete(*keys)
            for key, raw in self.snapshot.items():
                await self.redis.restore(key, 60_000, raw)

    async def reconfigure(self, draw: Any) -> None:
        self.fingerprint = draw(st.sampled_from("ab"))

    async def keys(self) -> list[bytes]:
        return [key async for key in self.redis.scan_iter(f"{self.settings.key_prefix}:*", count=1_000)]

    async def settle(self, _draw: Any) -> None:
        """All is sent and committed, deletions have ended, and a worker checks its partitions: nothing is missing."""
        flush = self.prepare(10**6)
        await self.send(flush)
        for each in flush.ranges:
            self.committed[each.partition] = each.next_offset
        while self.deletions:
            await self.empty(self.deletions.pop(), -1)
        ends = [AppliedRange(partition, end, end) for partition, end in enumerate(self.committed)]
        await self.signals.apply(self.redis, self.fingerprint, ends)
        for session, found in enumerate(await self.signals.read(self.redis, self.places)):
            if found is not None:
                assert found.counts == self.table(session, found.since_ms).counts, session

    @property
    def places(self) -> list[Any]:
        return [self.session(number).place for number in range(SESSIONS)]

    async def make_whole(self, session: int) -> None:
        """Count and write a session that is not whole."""
        place = self.session(session).place
        if await self.signals.read(self.redis, [place]) == [None]:
            (opened,) = await self.signals.open(self.redis, [place])
            await self.write(PreparedWrite(session, opened, self.table(session)))


STEPS = (
    *[World.append] * 3, *[World.flush] * 4, *[World.store_only] * 2, *[World.send_late] * 2, *[World.read] * 4,
    *[World.write_late] * 2, World.delete, World.end_deletion, *[World.settle] * 2,
)  # fmt: skip
LOSSES = (World.lose, World.keep, World.roll_back, World.reconfigure)


@given(data=st.data(), few=st.booleans(), losses=st.booleans())
@hypothesis_settings(max_examples=100)
async def test_a_whole_session_is_complete(
    redis: Redis, settings: Settings, data: st.DataObject, few: bool, losses: bool
) -> None:
    name = f"laws{uuid.uuid4().hex[:12]}"
    own = {"key_prefix": name, "topic": name, "sessions": 16 if few else 1_000}
    world = World(redis, settings.model_copy(update=own))
    await world.settle(data.draw)
    steps = STEPS + LOSSES if losses else STEPS
    for step in data.draw(st.lists(st.sampled_from(steps), min_size=15, max_size=40)):
        await step(world, data.draw)
    await world.settle(data.draw)
    for session in range(SESSIONS):
        await world.make_whole(session)
    await world.settle(data.draw)
    if keys := await world.keys():
        await redis.delete(*keys)


@pytest.mark.parametrize("by", ["worker", "reader"])
async def test_a_late_worker_does_not_count_an_event_that_was_erased(redis: Redis, narrow: Settings, by: str) -> None:
    """The late worker stored it before the deletion; another worker, or a reader, has erased it since."""
    world = World(redis, narrow)
    await world.settle(None)
    world.log[0].append(LogEvent(0, "text", NOW_MS))
    late = world.prepare(1)
    world.noted.add((0, 0))
    if by == "worker":
        await world.send(world.prepare(1))
    else:
        await world.empty((0, 0), 1)
        world.erased.add((0, 0))
        await world.empty((0, 0), -1)
    await world.make_whole(0)
    await world.send(late)
    (found, *_) = await world.signals.read(redis, world.places)
    assert found is not None
    assert not found.counts
