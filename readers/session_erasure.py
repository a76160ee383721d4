"""Deletions and session signals: the session of a deleted event is emptied, and counted again at its next read.

Before rows are erased, because tombstones have no session; and after that, because a read in between counts them.
"""

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from runtime.clickhouse import ClickHouse
from runtime.deletions import Deletion
from runtime.errors import Unavailable
from runtime.http.best_effort import BestEffortRedis
from runtime.learning_configs import LearningConfigs
from runtime.session_signals import LiveSession, SessionPlace, SessionSignals
from runtime.settings import Settings
from schemas.tables import INTERACTIONS

_SESSIONS = f"""
SELECT ifNull(retriever_id, ''), ifNull(session_id, ''), _partition, _offset FROM {INTERACTIONS} FINAL
WHERE namespace = {{namespace:String}} AND interaction_id = {{interaction_id:String}} AND _topic = {{topic:String}}
    AND occurred_at IS NULL AND ifNull(session_id, '') != '' AND ifNull(feature_uri, '') != ''
"""
PURPOSE = "deletion from session signals"

log = logging.getLogger("tally.api")


class SessionErasure:
    """Erasure of events from session signals."""

    def __init__(
        self, settings: Settings, redis: BestEffortRedis, database: ClickHouse, configs: LearningConfigs
    ) -> None:
        self._signals = SessionSignals(settings)
        self._has_redis = bool(settings.redis.get_secret_value())
        self._topic = settings.topic
        self._redis = redis
        self._database = database
        self._configs = configs

    @asynccontextmanager
    async def around(self, deletion: Deletion) -> AsyncIterator[None]:
        """Keep the event's session from being whole while the block erases its rows, and leave it empty.

        Raises Unavailable, before anything is erased, when Redis does not answer and has to.
        """
        sessions = await self._sessions_of(deletion)
        if sessions and not await self._empty(sessions, 1):
            raise Unavailable("Redis (TALLY_REDIS) does not answer, and the event's session has signals there")
        yield
        if sessions and not await self._empty(sessions, -1):
            log.warning(
                "Redis did not answer after a deletion: the session's signals are counted from ClickHouse at each "
                "read until TALLY_SESSION_TTL_MS after its last event"
            )

    async def _sessions_of(self, deletion: Deletion) -> Mapping[SessionPlace, Mapping[int, int]]:
        """Return the places of sessions that may have counted the event, and its offset by partition."""
        configs = self._configs.in_force
        if not self._has_redis or not any(namespace == deletion.namespace for namespace, _ in configs):
            return {}
        parameters = {**deletion._asdict(), "topic": self._topic}
        found: dict[SessionPlace, dict[int, int]] = {}
        for retriever, session_id, partition, offset in await self._database.rows(_SESSIONS, parameters):
            config = configs.get((deletion.namespace, retriever))
            if config is not None:
                session = LiveSession(deletion.namespace, retriever, config.first_version, session_id)
                offsets = found.setdefault(session.place, {})
                offsets[partition] = max(offset, offsets.get(partition, -1))
        return found

    async def _empty(self, sessions: Mapping[SessionPlace, Mapping[int, int]], more_deletions: int) -> bool:
        emptied = await self._redis.ask(PURPOSE, lambda redis: self._signals.empty(redis, sessions, more_deletions))
        return bool(emptied)
