"""The claims client: who owns a dedup key, in Redis, asked for a partition's whole batch at once."""

import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, ConnectionError, NoPermissionError, RedisError, TimeoutError

from runtime.errors import Fatal, SettingsError, Unavailable
from runtime.settings import Settings
from schemas.identity import id_bytes, id_from_bytes

_SCRIPT = (Path(__file__).parent / "claims.lua").read_text()
_EVENT = struct.Struct("<qqq16s")
_STORE = bytes(16)

# One script call holds Redis for about 4 us an event, so 1,000 events are 4 ms that nobody else is served.
EVENTS_PER_CALL = 1000
SAFE_POLICY = "noeviction"


class Claim(NamedTuple):
    """One event that asks for its key. Times in milliseconds since 1970."""

    key: bytes
    offset: int
    event_ms: int
    append_ms: int
    interaction_id: str


class Claims:
    """Claims of one topic. Every key of a partition carries the partition's hash tag, for Redis Cluster."""

    def __init__(self, redis: "Redis", settings: Settings) -> None:
        self._script = redis.register_script(_SCRIPT)
        self._prefix = f"{settings.key_prefix}:{{{settings.topic}:"
        self._limits = (settings.dedup_window_ms, settings.claim_ttl_ms)

    async def claim(self, partition: int, events: Sequence[Claim], reach_ms: int = 0) -> list[str | None]:
        """Claim each event's key, in offset order. Per event: None to store it, or the id it is a duplicate of.

        `reach_ms` is the append time before which no owner can match any event that may still be asked about;
        older owners are forgotten when their key is written. Asking again gives the same answers.
        Raises Unavailable when Redis cannot answer.
        """
        verdicts: list[str | None] = []
        for start in range(0, len(events), EVENTS_PER_CALL):
            verdicts += await self._claim(partition, events[start : start + EVENTS_PER_CALL], reach_ms)
        return verdicts

    async def _claim(self, partition: int, events: Sequence[Claim], reach_ms: int) -> list[str | None]:
        prefix = f"{self._prefix}{partition}}}:".encode()
        packed = b"".join(
            _EVENT.pack(event.offset, event.event_ms, event.append_ms, id_bytes(event.interaction_id))
            for event in events
        )
        try:
            answer: bytes = await self._script(
                keys=[prefix + event.key for event in events], args=[*self._limits, packed, reach_ms]
            )
        except RedisError as error:
            raise _translated(error) from error
        owners = [answer[at : at + 16] for at in range(0, len(answer), 16)]
        return [None if owner == _STORE else id_from_bytes(owner) for owner in owners]


def _translated(error: RedisError) -> Exception:
    if isinstance(error, AuthenticationError | NoPermissionError):
        return Fatal(f"Redis refused the credentials in TALLY_REDIS: {error}")
    return Unavailable(f"Redis (TALLY_REDIS): {error}")


@asynccontextmanager
async def connect_redis(settings: Settings) -> AsyncIterator["Redis"]:
    """A Redis connection whose server may be trusted with claims.

    Raises Fatal when the server would evict keys under memory pressure: a claim that vanished early lets a
    duplicate through without anybody noticing.
    """
    settings.need("redis")
    try:
        redis = Redis.from_url(
            settings.redis.get_secret_value(),
            socket_connect_timeout=settings.connect_timeout_ms / 1000,
            socket_timeout=settings.query_timeout_ms / 1000,
        )
    except ValueError:
        raise SettingsError(
            "TALLY_REDIS: write redis://[user:password@]host:port/db, with / and @ as %2F and %40"
        ) from None
    try:
        try:
            policy = (await redis.config_get("maxmemory-policy")).get("maxmemory-policy", "unknown")
        except (ConnectionError, TimeoutError, RedisError) as error:
            raise _translated(error) from error
        if policy != SAFE_POLICY:
            raise Fatal(
                f"Redis has maxmemory-policy {policy}: it would drop claims and let duplicates through. "
                f"Set maxmemory-policy {SAFE_POLICY}"
            )
        yield redis
    finally:
        await redis.aclose()
