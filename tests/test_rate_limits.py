"""Rate limits by key: token buckets in Redis, and the headers that tell of them."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from runtime.http.access import Caller
from runtime.http.best_effort import BestEffortRedis
from runtime.http.errors import ApiError
from runtime.http.keys import SCOPES
from runtime.http.limits import RateLimits
from runtime.redis import Redis
from tests.lab import Lab
from tests.waiting import eventually_async

CALLER = Caller("k", "default", SCOPES, 0)


@asynccontextmanager
async def limits_of(lab: Lab, **settings: int) -> AsyncIterator[RateLimits]:
    """Rate limits of one process."""
    changed = lab.settings.model_copy(update=settings)
    async with BestEffortRedis(changed).opened() as redis:
        yield RateLimits(changed, redis)


async def test_a_rate_limit_is_shared_by_processes(lab: Lab, redis: Redis) -> None:
    settings = lab.settings.model_copy(update={"rate_limit_per_s": 1, "rate_limit_burst_ms": 50_000})
    passed = 0
    async with BestEffortRedis(settings).opened() as first, BestEffortRedis(settings).opened() as second:
        processes = [RateLimits(settings, each) for each in (first, second)]

        async def are_connected() -> bool:
            return None not in [await each.ask("ping", lambda server: server.ping()) for each in (first, second)]

        await eventually_async(are_connected)
        with pytest.raises(ApiError) as raised:
            for number in range(100):
                headers = await processes[number % 2].spend(CALLER)
                assert headers["X-RateLimit-Limit"] == "50"
                passed += 1
        assert 50 <= passed < 60, "what comes back in the meantime, too"
        assert raised.value.status == 429
        assert int(raised.value.headers["Retry-After"]) >= 1
        assert raised.value.headers["X-RateLimit-Remaining"] == "0"
        assert await processes[0].spend(CALLER._replace(key_id="another"))


async def test_rate_limit_tokens_are_refilled(lab: Lab) -> None:
    async with limits_of(lab, rate_limit_per_s=20, rate_limit_burst_ms=50) as limits:

        async def passes() -> bool:
            try:
                return bool(await limits.spend(CALLER))
            except ApiError:
                return False

        for _ in range(5):
            await eventually_async(passes)


async def test_headers_of_the_rate_limit_are_those_of_now(lab: Lab) -> None:
    """Between two calls of Redis the bucket there fills up: headers tell so, and name no time in the past."""
    async with limits_of(lab, rate_limit_per_s=1_000, rate_limit_burst_ms=100_000) as limits:

        async def is_full() -> bool:
            before_s = int(time.time())
            headers = await limits.spend(CALLER)
            if not headers:
                return False
            assert int(headers["X-RateLimit-Reset"]) >= before_s
            return headers["X-RateLimit-Remaining"] == headers["X-RateLimit-Limit"] == "100000"

        await eventually_async(is_full)


async def test_a_refusal_says_that_no_token_remains_although_the_rate_of_the_key_has_risen(lab: Lab) -> None:
    async with limits_of(lab, rate_limit_burst_ms=3_000) as limits:

        async def refusal(rate_per_s: int) -> ApiError | None:
            try:
                await limits.spend(CALLER._replace(rate_per_s=rate_per_s))
            except ApiError as error:
                return error
            return None

        async def is_refused() -> bool:
            return await refusal(1) is not None

        await eventually_async(is_refused)
        refused = await refusal(1_000)
        assert refused is not None, "until the time that the first refusal named"
        assert refused.headers["X-RateLimit-Remaining"] == "0"
