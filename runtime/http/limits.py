"""Rate limits: a token bucket per key in Redis, shared by all processes.

A process takes tokens in small lots, so most requests need no call. While Redis is unavailable requests pass, and are
counted.
"""

import asyncio
import math
import time
from dataclasses import dataclass, field
from typing import Any

from runtime.http.access import Caller
from runtime.http.best_effort import BestEffortRedis
from runtime.http.errors import ApiError
from runtime.redis import Redis
from runtime.settings import Settings

LOTS_PER_BURST = 100

# KEYS[1] the bucket: tokens and the time of their count. ARGV: tokens per second, maximum, wanted. Returns the tokens
# given, and the milliseconds until the next token and until the bucket is full.
_TAKE = """
local rate, burst, wanted = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call("TIME")
local now = tonumber(time[1]) * 1000 + tonumber(time[2]) / 1000
local known = redis.call("HMGET", KEYS[1], "tokens", "at")
local tokens = tonumber(known[1]) or burst
tokens = math.min(burst, tokens + math.max(0, now - (tonumber(known[2]) or now)) * rate / 1000)
local given = math.min(wanted, math.floor(tokens))
tokens = tokens - given
redis.call("HSET", KEYS[1], "tokens", tostring(tokens), "at", string.format("%.3f", now))
local full_ms = math.ceil((burst - tokens) * 1000 / rate)
redis.call("PEXPIRE", KEYS[1], full_ms + 1000)
return { given, math.ceil(math.max(0, 1 - tokens) * 1000 / rate), full_ms }
"""


@dataclass
class _Bucket:
    """Token bucket of a key, as known to this process."""

    tokens: int = 0
    """Tokens taken from Redis and not spent yet."""
    full_at_s: float = 0.0
    """Time when the bucket in Redis is full again, if nothing is taken, in seconds since 1970."""
    empty_until: float = 0.0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class RateLimits:
    """Rate limits by key. Without a limit (0) Redis is not called."""

    def __init__(self, settings: Settings, redis: BestEffortRedis) -> None:
        self._rate = settings.rate_limit_per_s
        self._burst_s = settings.rate_limit_burst_ms / 1000
        self._prefix = f"{settings.key_prefix}:rate:"
        self._redis = redis
        self._buckets: dict[str, _Bucket] = {}

    async def spend(self, caller: Caller) -> dict[str, str]:
        """Spend a token of the caller's key. Return the X-RateLimit headers. Raises ApiError 429."""
        rate = caller.rate_per_s or self._rate
        if not rate:
            return {}
        burst = max(1, math.ceil(rate * self._burst_s))
        bucket = self._buckets.setdefault(caller.key_id, _Bucket())
        if bucket.tokens <= 0:
            async with bucket.lock:
                if bucket.tokens <= 0 and not await self._take(caller.key_id, bucket, rate, burst):
                    return {}
        bucket.tokens -= 1
        return _headers(rate, burst, bucket)

    async def _take(self, key_id: str, bucket: _Bucket, rate: int, burst: int) -> bool:
        """Take a lot of tokens. Return whether Redis answered. Raises ApiError 429 when the bucket is empty."""
        if time.monotonic() < bucket.empty_until:
            raise _too_many(rate, burst, bucket)

        async def take(redis: Redis) -> Any:
            lot = math.ceil(burst / LOTS_PER_BURST)
            return await redis.eval(_TAKE, 1, f"{self._prefix}{key_id}", rate, burst, lot)

        answer = await self._redis.ask("rate limit", take)
        if answer is None:
            return False
        given, wait_ms, full_ms = answer
        bucket.full_at_s = time.time() + full_ms / 1000
        if not given:
            bucket.empty_until = time.monotonic() + wait_ms / 1000
            raise _too_many(rate, burst, bucket)
        bucket.tokens += given
        return True


def _headers(rate: int, burst: int, bucket: _Bucket) -> dict[str, str]:
    """Return the limit, the tokens that remain now, and when the bucket is full again.

    Redis is asked once in a lot of tokens, so what the bucket there has gained since is computed.
    """
    now_s = time.time()
    missing = max(0.0, bucket.full_at_s - now_s) * rate
    return {
        "X-RateLimit-Limit": str(burst),
        "X-RateLimit-Remaining": str(max(0, min(burst, math.floor(burst - missing) + bucket.tokens))),
        "X-RateLimit-Reset": str(math.ceil(max(now_s, bucket.full_at_s))),
    }


def _too_many(rate: int, burst: int, bucket: _Bucket) -> ApiError:
    wait_s = max(1, math.ceil(bucket.empty_until - time.monotonic()))
    headers = _headers(rate, burst, bucket) | {"X-RateLimit-Remaining": "0", "Retry-After": str(wait_s)}
    return ApiError(429, f"too many requests with this key: retry in {wait_s} s", headers=headers)
