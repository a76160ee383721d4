"""Session signals as weights use them: a session's events of the last hours, whole or not at all.

A session that is whole in Redis is read there. Another one is counted from `interactions` and written to Redis, unless
it has changed meanwhile. Simultaneous reads share one pipeline to Redis, and one query.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from runtime.clickhouse import ClickHouse
from runtime.errors import TallyError
from runtime.http.best_effort import BestEffortRedis
from runtime.metrics import SESSION_READS
from runtime.rounds import Rounds
from runtime.session_signals import (
    FIELD_BYTES,
    LiveSession,
    OpenedSession,
    SessionPlace,
    SessionSignals,
    StoredSession,
    WholeSession,
)
from runtime.settings import Settings
from schemas.tables import INTERACTIONS
from schemas.type_sets import TYPE_SET_SQL

SESSIONS_PER_ROUND = 200
"""Maximum sessions that one query counts."""
ATTEMPTS = 3
"""Counts of a session that changes at the same time; then it is served without a write."""
PURPOSE = "session signals"

_OF_SESSIONS = """
    session_id IN {sessions:Array(String)} AND timestamp >= fromUnixTimestamp64Milli({since:Int64})
    AND (namespace, ifNull(retriever_id, ''), ifNull(session_id, ''))
        IN arrayZip({namespaces:Array(String)}, {retrievers:Array(String)}, {sessions:Array(String)})
    AND _topic = {topic:String} AND occurred_at IS NULL AND ifNull(feature_uri, '') != ''
"""
# Ids first: FINAL then reads the rows of these ids alone, of which tombstones have no session.
_COUNTS = f"""
SELECT namespace, ifNull(retriever_id, ''), ifNull(session_id, ''), ifNull(feature_uri, ''), {TYPE_SET_SQL} AS types,
    count(), maxMap([_partition], [_offset])
FROM {INTERACTIONS} FINAL
WHERE (namespace, interaction_id) IN (SELECT namespace, interaction_id FROM {INTERACTIONS} WHERE {_OF_SESSIONS})
    AND {_OF_SESSIONS}
GROUP BY namespace, retriever_id, session_id, feature_uri, types
ORDER BY namespace, retriever_id, session_id, feature_uri, types
LIMIT {{most:UInt64}} BY namespace, retriever_id, session_id
"""

_Events = Mapping[tuple[str, int], int]
_Answers = dict[LiveSession, _Events | None]


class _Read(NamedTuple):
    session: LiveSession
    future: "asyncio.Future[Any]"


class SessionReader:
    """Reader of session signals."""

    def __init__(self, settings: Settings, redis: BestEffortRedis, database: ClickHouse) -> None:
        self._signals = SessionSignals(settings)
        self._redis = redis
        self._database = database
        self._topic = settings.topic
        self._span_ms = settings.session_span_ms
        self._most_fields = settings.session_bytes // FIELD_BYTES + 1
        self._rounds: Rounds[_Read] = Rounds(self._serve, "reading session signals", max_items=SESSIONS_PER_ROUND)

    async def close(self) -> None:
        """Cancel the reads in flight."""
        await self._rounds.close()

    async def events(self, namespace: str, retriever: str, first_version: int, session_id: str) -> _Events | None:
        """Return a session's numbers of events by feature_uri and type set.

        None when it is too large, or when Redis or ClickHouse do not answer: weights are served without it.
        """
        read = _Read(LiveSession(namespace, retriever, first_version, session_id), asyncio.Future())
        self._rounds.add(read)
        found: _Events | None = await read.future
        return found

    def is_too_large(self, stored: StoredSession) -> bool:
        """Return whether the signals of a session are not used."""
        return self._signals.is_too_large(stored)

    async def _serve(self, reads: Sequence[_Read]) -> None:
        sessions = {read.session: read.session.place for read in reads}
        found: _Answers = {}
        for outcome, some in (await self._found(sessions)).items():
            SESSION_READS.labels(outcome).inc(len(some))
            found |= some
        for read in reads:
            if not read.future.done():
                read.future.set_result(found[read.session])

    async def _found(self, sessions: Mapping[LiveSession, SessionPlace]) -> dict[str, _Answers]:
        """Return all sessions by outcome."""
        oldest_ms = time.time_ns() // 1_000_000 - 2 * self._span_ms
        known = await self._redis.ask(PURPOSE, lambda redis: self._signals.read(redis, list(sessions.values())))
        by_outcome: dict[str, _Answers] = {}

        def answer(session: LiveSession, outcome: str, counts: _Events | None) -> None:
            outcome = "empty" if outcome in ("whole", "rebuilt") and not counts else outcome
            by_outcome.setdefault(outcome, {})[session] = counts

        left = []
        for session, whole in zip(sessions, known or [None] * len(sessions), strict=True):
            if known is None:
                answer(session, "unavailable", None)
            elif whole is None or whole.since_ms < oldest_ms:
                left.append(session)
            else:
                answer(session, *_outcome_of(whole))
        counted = await self._count_and_write({session: sessions[session] for session in left}) if left else {}
        for session in left:
            stored = counted.get(session)
            if stored is None:
                answer(session, "unavailable", None)
            elif self.is_too_large(stored):
                answer(session, "too_large", None)
            else:
                answer(session, "rebuilt", stored.counts)
        return by_outcome

    async def _count_and_write(self, sessions: Mapping[LiveSession, SessionPlace]) -> dict[LiveSession, StoredSession]:
        """Count sessions and make them whole; those that cannot be counted are left out."""
        counted: dict[LiveSession, StoredSession] = {}
        left = dict(sessions)
        for _ in range(ATTEMPTS):
            places = list(left.values())
            opened = await self._redis.ask(PURPOSE, lambda redis, places=places: self._signals.open(redis, places))  # type: ignore[misc]
            if opened is None:
                break
            try:
                counted |= await self.count(list(left))
            except TallyError:
                break
            writes: list[tuple[SessionPlace, OpenedSession, StoredSession]] = [
                (place, state, counted[session])
                for (session, place), state in zip(left.items(), opened, strict=True)
                if not state.deletions
            ]
            written = await self._redis.ask(PURPOSE, lambda redis, writes=writes: self._signals.write(redis, writes))  # type: ignore[misc]
            if written is None:
                break
            changed = {place for (place, *_), is_written in zip(writes, written, strict=True) if not is_written}
            left = {session: place for session, place in left.items() if place in changed}
            if not left:
                break
        return counted

    async def count(self, sessions: Sequence[LiveSession]) -> dict[LiveSession, StoredSession]:
        """Count sessions from the tables. Raises Unavailable."""
        since_ms = time.time_ns() // 1_000_000 - self._span_ms
        parameters = {
            "namespaces": [each.namespace for each in sessions],
            "retrievers": [each.retriever for each in sessions],
            "sessions": [each.session_id for each in sessions],
            "since": since_ms,
            "topic": self._topic,
            "most": self._most_fields,
        }
        counts: dict[tuple[str, str, str], dict[tuple[str, int], int]] = {}
        offsets: dict[tuple[str, str, str], dict[int, int]] = {}
        for namespace, retriever, session_id, feature, types, events, last in await self._database.rows(
            _COUNTS, parameters
        ):
            name = namespace, retriever, session_id
            counts.setdefault(name, {})[feature, int(types)] = int(events)
            known = offsets.setdefault(name, {})
            for partition, offset in zip(*last, strict=True):
                known[partition] = max(offset, known.get(partition, -1))
        found = {}
        for each in sessions:
            name = each.namespace, each.retriever, each.session_id
            found[each] = StoredSession(counts.get(name, {}), offsets.get(name, {}), since_ms)
        return found


def _outcome_of(whole: WholeSession) -> tuple[str, _Events | None]:
    return ("too_large", None) if whole.is_too_large else ("whole", whole.counts)
