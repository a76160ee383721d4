"""Turns of processes to measure the health of the tracking, in Redis: one measures, and all have its numbers.

Without Redis each process takes every turn itself.
"""

import json
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from runtime.http.best_effort import BestEffortRedis
from runtime.redis import Redis
from runtime.settings import Settings

Excess = Mapping[tuple[str, str], float]
"""Share of faults divided by the allowed share, by namespace and check."""

# KEYS[1] a hash: the end of the turn in ms since 1970, and the numbers of the last one. ARGV[1] milliseconds of a turn,
# ARGV[2] milliseconds until the hash expires. Returns whether the turn was free and is taken now, and the numbers, ''
# if there are none.
_TAKE = """
local time = redis.call("TIME")
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local known = redis.call("HMGET", KEYS[1], "ends", "numbers")
local is_free = (tonumber(known[1]) or 0) <= now
if is_free then
    redis.call("HSET", KEYS[1], "ends", string.format("%.0f", now + ARGV[1]))
    redis.call("PEXPIRE", KEYS[1], ARGV[2])
end
return { is_free and 1 or 0, known[2] or "" }
"""

# ARGV[1] milliseconds from now until the next turn, ARGV[2] until the hash expires, ARGV[3] the numbers; without them
# those of the last turn are kept.
_HOLD = """
local time = redis.call("TIME")
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
redis.call("HSET", KEYS[1], "ends", string.format("%.0f", now + ARGV[1]))
if ARGV[3] then
    redis.call("HSET", KEYS[1], "numbers", ARGV[3])
end
redis.call("PEXPIRE", KEYS[1], ARGV[2])
return 1
"""


class Turn(NamedTuple):
    """Answer to a process that is ready to measure. `numbers`: of the last turn, None while unknown."""

    is_own: bool
    numbers: Excess | None = None


class HealthTurns:
    """Turns of one process. If a process ends during its turn, the next one begins TALLY_HEALTH_EVERY_MS and the time
    limit of a report later at most."""

    def __init__(self, settings: Settings, redis: BestEffortRedis) -> None:
        self._redis = redis if settings.redis.get_secret_value() else None
        self._key = f"{settings.key_prefix}:tracking-health:{settings.database}"
        self._pause_ms = settings.health_every_ms
        self._turn_ms = settings.health_every_ms + settings.report_timeout_ms
        self._next_at = 0.0
        """Monotonic time of this process's next turn without Redis."""

    async def take(self) -> Turn:
        """Take the turn if it is free."""
        answer = await self._run(_TAKE, self._turn_ms)
        if answer is None:
            return Turn(is_own=time.monotonic() >= self._next_at)
        is_own, numbers = answer
        return Turn(bool(is_own), _decode(numbers) if numbers else None)

    async def extend(self) -> None:
        """Keep the turn for one more report."""
        await self._run(_HOLD, self._turn_ms)

    async def end(self, numbers: Excess) -> None:
        """Hand the numbers to all processes. The next turn is in TALLY_HEALTH_EVERY_MS."""
        self._next_at = time.monotonic() + self._pause_ms / 1000
        await self._run(_HOLD, self._pause_ms, _encode(numbers))

    async def _run(self, script: str, milliseconds: int, *numbers: str) -> Any:
        """Run a script; return None without Redis. The numbers outlive the next turn, in which they are replaced."""
        if self._redis is None:
            return None

        async def run(redis: Redis) -> Any:
            return await redis.eval(script, 1, self._key, milliseconds, 2 * self._turn_ms, *numbers)

        return await self._redis.ask("tracking health", run)


def _encode(numbers: Excess) -> str:
    return json.dumps([[*key, value] for key, value in numbers.items()])


def _decode(text: bytes) -> Excess:
    return {(namespace, check): value for namespace, check, value in json.loads(text)}
