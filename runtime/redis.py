"""Connections to Redis or Valkey, single server or cluster, and the check of their eviction policy."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import Redis as Server
from redis.asyncio import RedisCluster as Cluster
from redis.exceptions import ResponseError

from runtime.errors import Fatal, SettingsError, reason_of
from runtime.faults.redis import REDIS_FAILED, redis_fault
from runtime.settings import Settings

Redis = Server | Cluster

SAFE_POLICY = "noeviction"


@asynccontextmanager
async def connect_redis(settings: Settings) -> AsyncIterator[Redis]:
    """Connect to a server or, if it reports one, a cluster, and check the eviction policy.

    Raises Unavailable when no server answers. Raises Fatal when a server would evict keys under memory pressure: an
    evicted claim would let a duplicate through unnoticed.
    """
    settings.need("redis")
    redis: Redis = _open(Server, settings)
    try:
        try:
            if (await redis.info("cluster")).get("cluster_enabled"):
                await redis.aclose()
                redis = _open(Cluster, settings)
            policies = await _policies(redis)
        except REDIS_FAILED as error:
            raise redis_fault(error) from error
        if unsafe := policies - {SAFE_POLICY}:
            raise Fatal(
                f"Redis has maxmemory-policy {', '.join(sorted(unsafe))}: it would drop claims and let duplicates "
                f"through. Set maxmemory-policy {SAFE_POLICY}"
            )
        yield redis
    finally:
        await redis.aclose()


def _open(kind: type[Server] | type[Cluster], settings: Settings) -> Redis:
    url = settings.redis.get_secret_value()
    trust: dict[str, Any] = {"ssl_ca_certs": settings.tls_ca_file} if settings.tls_ca_file else {}
    try:
        return kind.from_url(
            url,
            **(trust if url.startswith("rediss:") else {}),
            socket_connect_timeout=settings.connect_timeout_ms / 1000,
            socket_timeout=settings.query_timeout_ms / 1000,
        )
    except ValueError:
        raise SettingsError(
            "TALLY_REDIS: write redis[s]://host:port/db; user:password@ before the host has / and @ as %2F and %40"
        ) from None


async def _policies(redis: Redis) -> set[str]:
    """Return the eviction policies of all servers."""
    if isinstance(redis, Cluster):
        await redis.initialize()  # before that it knows no nodes
        return {await _policy(redis, target_nodes=node) for node in redis.get_primaries()}
    return {await _policy(redis)}


async def _policy(redis: Redis, **where: Any) -> str:
    """Read a server's eviction policy by INFO, because managed services forbid CONFIG, else by CONFIG.

    Raises Fatal when neither returns it.
    """
    found: Any = await redis.info("memory", **where)
    if policy := found.get("maxmemory_policy"):
        return str(policy)
    try:
        found = await redis.config_get("maxmemory-policy", **where)
        why = "CONFIG GET maxmemory-policy is empty"
    except ResponseError as error:  # no permission, or no such command
        found, why = {}, reason_of(error)
    if policy := found.get("maxmemory-policy"):
        return str(policy)
    raise Fatal(
        "Redis (TALLY_REDIS) does not report its maxmemory-policy, which must be noeviction: INFO memory has no "
        f"maxmemory_policy, and {why}. Let the user in TALLY_REDIS run CONFIG GET, or use a Redis whose INFO has it"
    )
