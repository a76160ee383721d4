"""Session signals of a test: a configured retriever, reads as weights make them, and the account of the tables."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from learning.weights.sessions import SessionReader
from runtime.clickhouse import ClickHouse
from runtime.http.best_effort import BestEffortRedis
from runtime.redis import Redis
from runtime.session_signals import SessionCounts, SessionPlace, SessionSignals, fields_read
from runtime.settings import Settings
from schemas.learning_config import LearningConfig
from schemas.type_sets import type_set
from tests.waiting import eventually_async

RETRIEVER, OTHER = "hybrid", "dense1"
"""Retriever with a learning configuration, and one without."""
CLICK, IMPRESSION = type_set(["click"]), type_set(["impression"])


async def configure(
    database: ClickHouse, retriever: str = RETRIEVER, version: int = 1, *, deleted: bool = False
) -> None:
    """Store a version of a retriever's learning configuration, as the API does."""
    config = "" if deleted else LearningConfig().model_dump_json()
    await database.command(
        "INSERT INTO learning_configs "
        "SELECT 'default', {retriever:String}, {version:UInt32}, {config:String}, now64(3)",
        {"retriever": retriever, "version": version, "config": config},
    )


@asynccontextmanager
async def session_reader(settings: Settings, database: ClickHouse) -> AsyncIterator[SessionReader]:
    """A reader with a connection to Redis of its own."""
    patient = settings.model_copy(update={"redis_patience_ms": 10_000})
    async with BestEffortRedis(patient).opened() as redis:
        await connected(redis)
        reader = SessionReader(patient, redis, database)
        try:
            yield reader
        finally:
            await reader.close()


async def connected(redis: BestEffortRedis) -> None:
    """Wait until a connection is open."""

    async def answers() -> bool:
        return await redis.ask("test", lambda opened: opened.ping()) is not None

    await eventually_async(answers)


async def stored(database: ClickHouse, topic: str, session: str, retriever: str = RETRIEVER) -> SessionCounts:
    """A session's events as the tables have them, counted without the reader's query."""
    rows: Any = await database.rows(
        "SELECT feature_uri, interaction_type FROM interactions FINAL WHERE _topic = {topic:String} "
        "AND session_id = {session:String} AND retriever_id = {retriever:String} AND namespace = 'default' "
        "AND occurred_at IS NULL AND feature_uri != ''",
        {"topic": topic, "session": session, "retriever": retriever},
    )
    return dict(Counter((feature, type_set(types)) for feature, types in rows))


async def hash_of(redis: Redis, settings: Settings, place: SessionPlace) -> SessionCounts | None:
    """The counts that Redis has of a session, whole or not; None without a hash."""
    found: Any = await redis.hgetall(SessionSignals(settings).session_key(place))
    return fields_read(found) if found else None


async def is_whole(redis: Redis, settings: Settings, place: SessionPlace) -> bool:
    """Whether a session is whole in Redis."""
    (found,) = await SessionSignals(settings).read(redis, [place])
    return found is not None
