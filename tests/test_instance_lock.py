"""The lock on a name in the group: it is held, lost, free again, and written again where Redis forgot it."""

import pytest

from consumers.instance_lock import InstanceLock
from runtime.errors import Fatal
from runtime.redis import Redis
from tests.lab import Lab
from tests.waiting import eventually_async

INSTANCE = "host-1-worker-0"


async def test_the_first_of_two_holders_of_a_name_ends(lab: Lab, redis: Redis) -> None:
    """A process that slept too long has lost its name to another one, and must not continue."""
    settings = lab.settings.model_copy(update={"session_timeout_ms": 300})
    first, second = (InstanceLock(redis, settings, INSTANCE) for _ in range(2))
    async with first.held(), second.held():  # of one process, so the second gets it at once

        async def first_has_ended() -> bool:
            try:
                first.check()
            except Fatal as error:
                return f"has taken the name {INSTANCE}" in str(error)
            return False

        await eventually_async(first_has_ended)
        second.check()
    assert await redis.pttl(f"{settings.key_prefix}:instance:{settings.group}:{INSTANCE}") <= 1


@pytest.mark.parametrize("claim", [b"", b"a b c", b"elsewhere 7 nonce 3"])
async def test_an_unconfirmed_name_is_free(lab: Lab, redis: Redis, claim: bytes) -> None:
    """After the session timeout, as after the loss of a host; other values in its place are ignored."""
    settings = lab.settings.model_copy(update={"session_timeout_ms": 1_000})
    await redis.set(f"{settings.key_prefix}:instance:{settings.group}:{INSTANCE}", claim, px=1_000)
    lock = InstanceLock(redis, settings, INSTANCE)
    async with lock.held():
        lock.check()


async def test_a_name_that_redis_lost_is_written_again(lab: Lab, redis: Redis) -> None:
    """The name is written again."""
    settings = lab.settings.model_copy(update={"session_timeout_ms": 300})
    lock = InstanceLock(redis, settings, INSTANCE)
    key = f"{settings.key_prefix}:instance:{settings.group}:{INSTANCE}"
    async with lock.held():
        await redis.delete(key)

        async def is_back() -> bool:
            return bool(await redis.exists(key))

        await eventually_async(is_back)
        lock.check()
