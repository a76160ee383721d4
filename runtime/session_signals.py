"""Session signals in Redis: numbers of events of a session by feature and type set, each event once.

Sessions fall into BUCKETS buckets. All keys of a bucket have one hash tag, so a script call sees them together, and a
cluster spreads the buckets. `session_signals.lua` has the layout and says when a session is whole.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from runtime.redis import Redis
from runtime.settings import Settings

BUCKETS = 16
FIELD_BYTES = 16
"""Bytes that a field counts for besides its name, in the size of a session."""
MAX_EVENTS = 500
"""Maximum events that one call applies: a call of this size keeps Redis for some milliseconds."""

_CONSTANTS = {"FIELD_BYTES": FIELD_BYTES, "MAX_DROPPED": MAX_EVENTS}
SCRIPT = (
    "".join(f"local {name} = {value}\n" for name, value in _CONSTANTS.items())
    + Path(__file__).with_suffix(".lua").read_text()
)
"""Text that Redis runs. It is always sent whole: a pipeline to a cluster takes no hashes of scripts."""

SessionCounts = dict[tuple[str, int], int]
"""Numbers of events by feature_uri and type set."""


class SessionPlace(NamedTuple):
    """Place of a session in Redis."""

    bucket: int
    name: str


class LiveSession(NamedTuple):
    """Session of one retriever under one configuration, with all its changes."""

    namespace: str
    retriever: str
    first_version: int
    """First version of the configuration since the retriever had none."""
    session_id: str

    @property
    def place(self) -> SessionPlace:
        """Place of the session: a hash, because ids have any length and may be personal."""
        hashed = hashlib.blake2b(digest_size=16)
        for part in (self.namespace, self.retriever, str(self.first_version), self.session_id):
            raw = part.encode()
            hashed.update(b"%d " % len(raw))
            hashed.update(raw)
        digest = hashed.digest()
        return SessionPlace(digest[0] % BUCKETS, digest.hex())


class AppliedRange(NamedTuple):
    """Range of a partition's offsets whose events are stored."""

    partition: int
    first_offset: int
    next_offset: int


class SessionEvents(NamedTuple):
    """Events of one session, in offset order in each partition."""

    place: SessionPlace
    fields: Sequence[str]
    events: Sequence[int]
    """Four numbers for each event: number of its field from 1 on, partition, offset, append time in ms since 1970."""


class OpenedSession(NamedTuple):
    """State of a session that is not whole, for the write of counts that are read after this."""

    changes: bytes
    generation: bytes
    deletions: int
    """Number of deletions in progress: the session cannot become whole."""


class StoredSession(NamedTuple):
    """Session as the tables have it."""

    counts: Mapping[tuple[str, int], int]
    offsets: Mapping[int, int]
    """Offset of the last counted event, by partition."""
    since_ms: int
    """Append time from which events count, in ms since 1970."""

    @property
    def nbytes(self) -> int:
        """Size of the counts, as it is compared with TALLY_SESSION_BYTES."""
        return sum(len(field_of(feature, types).encode()) + FIELD_BYTES for feature, types in self.counts)


class WholeSession(NamedTuple):
    """Whole session, as Redis has it."""

    counts: SessionCounts
    is_too_large: bool
    since_ms: int


def field_of(feature_uri: str, types: int) -> str:
    """Return the name of a count."""
    return f"{types}:{feature_uri}"


def fields_read(known: Mapping[bytes, bytes]) -> SessionCounts:
    """Return the counts among the fields of a session."""
    counts = {}
    for name, count in known.items():
        if name.startswith(b"="):
            types, _, feature = name[1:].partition(b":")
            counts[feature.decode(), int(types)] = int(count)
    return counts


class SessionSignals:
    """Session signals of one topic and database. Every method raises the errors of the Redis client."""

    def __init__(self, settings: Settings) -> None:
        self._prefix = f"{settings.key_prefix}:{{{settings.topic}:{settings.database}:s"
        self._ttl_ms = settings.session_ttl_ms
        self._max_bytes = settings.session_bytes
        self._max_sessions = max(1, settings.sessions // BUCKETS)

    def state_key(self, bucket: int) -> str:
        """Return the key of a bucket's state."""
        return f"{self._prefix}{bucket}}}"

    def session_key(self, place: SessionPlace) -> str:
        """Return the key of a session."""
        return f"{self.state_key(place.bucket)}:{place.name}"

    async def apply(
        self,
        redis: Redis,
        fingerprint: str,
        ranges: Sequence[AppliedRange],
        sessions: Iterable[SessionEvents] = (),
        emptied: Iterable[SessionPlace] = (),
    ) -> None:
        """Count the events of ranges of the log, and empty sessions. Safe to repeat, also late.

        `sessions` has all events of the ranges that count, `fingerprint` stands for the configurations that chose them.
        """
        by_bucket: list[list[SessionEvents]] = [[] for _ in range(BUCKETS)]
        for session in sessions:
            by_bucket[session.place.bucket].append(session)
        empty_names: list[list[str]] = [[] for _ in range(BUCKETS)]
        for place in emptied:
            empty_names[place.bucket].append(place.name)
        whole = [number for each in ranges for number in each]
        begun = [number for each in ranges for number in (each.partition, each.first_offset, each.first_offset)]
        pipeline = redis.pipeline(transaction=False)
        for bucket in range(BUCKETS):
            calls = list(_calls_of(by_bucket[bucket])) or [[]]
            for number, call in enumerate(calls, 1):
                is_last = number == len(calls)
                names = empty_names[bucket] if is_last else []
                arguments = fingerprint, whole if is_last else begun, self._max_bytes, call, names
                self._add(pipeline, "apply", bucket, arguments)
        await pipeline.execute()

    async def read(self, redis: Redis, places: Sequence[SessionPlace]) -> list[WholeSession | None]:
        """Return each session; None for one that is not whole."""
        pipeline = redis.pipeline(transaction=False)
        for place in places:
            # The generation last: if it is that of the session, it was so before.
            pipeline.hgetall(self.session_key(place))
            pipeline.hget(self.state_key(place.bucket), "g")
        answers = await pipeline.execute()
        found: list[WholeSession | None] = []
        for known, generation in zip(answers[::2], answers[1::2], strict=True):
            is_whole = generation is not None and known.get(b"g") == generation
            found.append(WholeSession(fields_read(known), b"l" in known, int(known[b"s"])) if is_whole else None)
        return found

    async def open(self, redis: Redis, places: Sequence[SessionPlace]) -> list[OpenedSession]:
        """Return the state of sessions before their counts are read from the tables."""
        answers = await self._call(redis, "open", [(place, (place.name,)) for place in places])
        return [OpenedSession(*answer) for answer in answers]

    async def write(
        self, redis: Redis, sessions: Sequence[tuple[SessionPlace, OpenedSession, StoredSession]]
    ) -> list[bool]:
        """Make sessions whole; return for each whether nothing has changed since it was opened, and it is written."""
        calls = [(place, self._written(place, opened, stored)) for place, opened, stored in sessions]
        return [bool(answer) for answer in await self._call(redis, "write", calls)]

    def _written(self, place: SessionPlace, opened: OpenedSession, stored: StoredSession) -> Sequence[Any]:
        nbytes = stored.nbytes
        is_too_large = nbytes > self._max_bytes
        counts = {} if is_too_large else stored.counts
        flat = [each for (feature, types), count in counts.items() for each in (field_of(feature, types), count)]
        offsets = [number for each in stored.offsets.items() for number in each]
        state = opened.changes.decode(), opened.generation.decode()
        return place.name, *state, stored.since_ms, is_too_large, nbytes, flat, offsets

    def is_too_large(self, stored: StoredSession) -> bool:
        """Return whether the signals of a session are not used."""
        return stored.nbytes > self._max_bytes

    async def empty(
        self, redis: Redis, sessions: Mapping[SessionPlace, Mapping[int, int]], more_deletions: int
    ) -> bool:
        """Empty sessions that lose events; they have the offsets, by partition, up to which nothing counts any more.

        `more_deletions`: 1 before rows are erased, -1 after that. In between no session becomes whole.
        """
        calls = [
            (place, (place.name, more_deletions, [number for each in offsets.items() for number in each]))
            for place, offsets in sessions.items()
        ]
        await self._call(redis, "empty", calls)
        return True

    async def renew(self, redis: Redis) -> None:
        """Make no session whole: the next read counts from the tables."""
        await self._call(redis, "renew", [(SessionPlace(bucket, ""), ()) for bucket in range(BUCKETS)])

    async def _call(
        self, redis: Redis, operation: str, calls: Sequence[tuple[SessionPlace, Sequence[Any]]]
    ) -> list[Any]:
        pipeline = redis.pipeline(transaction=False)
        for place, arguments in calls:
            self._add(pipeline, operation, place.bucket, arguments)
        answers: list[Any] = await pipeline.execute()
        return answers

    def _add(self, pipeline: Any, operation: str, bucket: int, arguments: Sequence[Any]) -> None:
        state = self.state_key(bucket)
        packed = msgspec.msgpack.encode(arguments)  # texts as str: Redis reads no binary values of MessagePack
        pipeline.eval(SCRIPT, 2, state, f"{state}:index", operation, self._ttl_ms, self._max_sessions, packed)


def _calls_of(sessions: Iterable[SessionEvents]) -> Iterator[list[tuple[str, Sequence[str], Sequence[int]]]]:
    """Yield the events in calls of at most MAX_EVENTS, each with its own fields; those of a session stay in order."""
    call: list[tuple[str, Sequence[str], Sequence[int]]] = []
    room = MAX_EVENTS
    for place, fields, events in sessions:
        at = 0
        while at < len(events):
            some = events[at : at + 4 * room]
            is_part = len(some) < len(events)
            call.append((place.name, *_part_of(fields, some)) if is_part else (place.name, fields, some))
            at += len(some)
            room -= len(some) // 4
            if not room:
                yield call
                call, room = [], MAX_EVENTS
    if call:
        yield call


def _part_of(fields: Sequence[str], events: Sequence[int]) -> tuple[list[str], list[int]]:
    """Return the fields of some events of a session, and the events with the numbers of these fields."""
    numbers: dict[int, int] = {}
    renumbered = list(events)
    for at in range(0, len(events), 4):
        renumbered[at] = numbers.setdefault(events[at], len(numbers) + 1)
    return [fields[number - 1] for number in numbers], renumbered
