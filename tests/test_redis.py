"""Tally's check of a Redis before it holds claims, and the few permissions that it needs."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr
from redis.exceptions import NoPermissionError

from runtime.errors import Fatal
from runtime.redis import Redis, connect_redis
from runtime.settings import Settings
from tests.chaos.proxy import proxy_to
from tests.lab import Lab, click

WORD = "what-a-tenant-says"


@asynccontextmanager
async def as_a_user(redis: Redis, settings: Settings, *rules: str) -> AsyncIterator[Settings]:
    """Settings of a user with all rights except those that the rules remove, as with a managed service."""
    name = f"{settings.key_prefix}-tenant"
    await redis.execute_command("ACL", "SETUSER", name, "on", f">{WORD}", "~*", "+@all", *rules)
    address = urlsplit(settings.redis.get_secret_value())
    url = f"redis://{name}:{WORD}@{address.hostname}:{address.port}/0"
    try:
        yield settings.model_copy(update={"redis": SecretStr(url)})
    finally:
        await redis.execute_command("ACL", "DELUSER", name)


async def test_a_worker_runs_without_config(lab: Lab, redis: Redis) -> None:
    """A user who may not run CONFIG stores events."""
    async with as_a_user(redis, lab.settings, "-config") as tenant:
        async with connect_redis(tenant) as connected:
            with pytest.raises(NoPermissionError):
                await connected.config_get("maxmemory-policy")
        await lab.emit(click(), click())
        counts = await lab.drain(redis=tenant.redis)
    assert (counts.stored, counts.duplicates) == (1, 1)


async def test_a_redis_that_evicts_is_refused_without_config(narrow: Settings, redis: Redis) -> None:
    """INFO reports the policy to every user."""
    await redis.config_set("maxmemory-policy", "allkeys-lru")
    try:
        async with as_a_user(redis, narrow, "-config") as tenant:
            with pytest.raises(Fatal, match="allkeys-lru"):
                async with connect_redis(tenant):
                    pass
    finally:
        await redis.config_set("maxmemory-policy", "noeviction")


@pytest.mark.parametrize("rules", [(), ("-config",)])
async def test_a_policy_missing_from_info_is_read_with_config(
    narrow: Settings, redis: Redis, rules: tuple[str, ...]
) -> None:
    """If INFO has no policy, CONFIG is used; if that is forbidden, the error names the missing right."""
    async with as_a_user(redis, narrow, *rules) as tenant:
        address = urlsplit(tenant.redis.get_secret_value())
        assert address.port
        async with proxy_to(address.port) as proxy:
            proxy.renamed = b"maxmemory_policy:", b"maxmemory_hidden:"
            url = address._replace(netloc=address.netloc.replace(str(address.port), str(proxy.port))).geturl()
            asked = connect_redis(narrow.model_copy(update={"redis": SecretStr(url)}))
            if not rules:
                async with asked as connected:
                    assert await connected.ping()
            else:
                with pytest.raises(Fatal, match=r"INFO memory has no maxmemory_policy.*'config\|get'.*CONFIG GET"):
                    async with asked:
                        pass


async def test_a_permission_error_contains_the_message_of_redis(narrow: Settings, redis: Redis) -> None:
    """An error has Redis's own words, and not the name of a Python class."""
    async with as_a_user(redis, narrow, "-info") as tenant:
        with pytest.raises(Fatal, match=r"TALLY_REDIS.*no permissions to run the 'info' command") as caught:
            async with connect_redis(tenant):
                pass
    assert "NoPermissionError" not in str(caught.value)
