"""Deletions and session signals: the session of a deleted event is emptied, and counted again at its next read.

Before rows are erased, because tombstones have no session; and after that, because a read in between counts them.
"""

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

from runtime.clickhouse import ClickHouse
from runtime.deletions import Deletion
from runtime.errors import Unavailable
from runtime.http.best_effort import BestEffortRedis
from runtime.learning_configs import FIRST_VERSION
from runtime.session_signals import LiveSession, SessionPlace, SessionSignals
from runtime.settings import Settings
from schemas.tables import INTERACTIONS, LEARNING_CONFIGS

_EVENTS = f"""
SELECT ifNull(retriever_id, ''), ifNull(session_id, ''), _partition, _offset FROM {INTERACTIONS} FINAL
WHERE namespace = {{namespace:String}} AND interaction_id = {{interaction_id:String}} AND _topic = {{topic:String}}
    AND occurred_at IS NULL AND ifNull(session_id, '') != '' AND ifNull(feature_uri, '') != ''
"""
# Read for each deletion: other processes may have counted for configurations that this one has not read yet.
_FIRST_VERSIONS = f"""
SELECT retriever_id, {FIRST_VERSION} FROM {LEARNING_CONFIGS} WHERE namespace = {{namespace:String}}
GROUP BY retriever_id HAVING argMax(config, version) != ''
"""
PURPOSE = "deletion from session signals"

log = logging.getLogger("tally.api")


class _Event(NamedTuple):
    """Stored event of a session."""

    retriever: str
    session_id: str
    partition: int
    offset: int


class SessionErasure:
    """Erasure of events from session signals."""

    def __init__(self, settings: Settings, redis: BestEffortRedis, database: ClickHouse) -> None:
        self._signals = SessionSignals(settings)
        self._has_redis = bool(settings.redis.get_secret_value())
        self._topic = settings.topic
        self._redis = redis
        self._database = database

    @asynccontextmanager
    async def around(self, deletion: Deletion) -> AsyncIterator[None]:
        """Keep the event's session from being whole while the block erases its rows, and leave it empty.

        Raises Unavailable, before anything is erased, when Redis does not answer and has to.
        """
        events = await self._events_of(deletion) if self._has_redis else []
        first_versions = await self._first_versions(deletion) if events else {}
        sessions = _sessions(deletion.namespace, first_versions, events)
        if sessions and not await self._empty(sessions, 1):
            raise Unavailable("Redis (TALLY_REDIS) does not answer, and the event's session has signals there")
        try:
            yield
        finally:  # a deletion that failed may be in part: the session is empty, and is counted again
            is_emptied = not sessions or await self._empty(sessions, -1)
        if events and (now := await self._first_versions(deletion)) != first_versions:
            # A configuration that is new since then: the event may have been counted for it before it was erased.
            others = _sessions(deletion.namespace, now, events)
            is_emptied &= await self._empty({place: others[place] for place in others.keys() - sessions.keys()}, 0)
        if not is_emptied:
            log.warning(
                "Redis did not answer after a deletion: the session's signals are counted from ClickHouse at each "
                "read until TALLY_SESSION_TTL_MS after its last event"
            )

    async def _events_of(self, deletion: Deletion) -> Sequence[_Event]:
        """Return the rows of the event that sessions count."""
        parameters = {**deletion._asdict(), "topic": self._topic}
        return [_Event(*row) for row in await self._database.rows(_EVENTS, parameters)]

    async def _first_versions(self, deletion: Deletion) -> Mapping[str, int]:
        """Return the first version of the configuration of each configured retriever of the namespace."""
        rows = await self._database.rows(_FIRST_VERSIONS, {"namespace": deletion.namespace})
        return {retriever: int(version) for retriever, version in rows}

    async def _empty(self, sessions: Mapping[SessionPlace, Mapping[int, int]], more_deletions: int) -> bool:
        emptied = await self._redis.ask(PURPOSE, lambda redis: self._signals.empty(redis, sessions, more_deletions))
        return bool(emptied)


def _sessions(
    namespace: str, first_versions: Mapping[str, int], events: Sequence[_Event]
) -> Mapping[SessionPlace, Mapping[int, int]]:
    """Return the places of sessions that may have counted events, and the offsets by partition of these."""
    found: dict[SessionPlace, dict[int, int]] = {}
    for retriever, session_id, partition, offset in events:
        if retriever in first_versions:
            session = LiveSession(namespace, retriever, first_versions[retriever], session_id)
            offsets = found.setdefault(session.place, {})
            offsets[partition] = max(offset, offsets.get(partition, -1))
    return found
