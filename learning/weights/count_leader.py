"""Leader of counts: of all API processes one counts at a time, by a lease in Redis, and all publish the counts' age.

The lease saves work. Two leaders, such as one that was paused or processes without Redis, are harmless
(`count_progress.py`).
"""

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress

from learning.weights.aggregates import DayCounter, LeaseLost
from learning.weights.count_cleanup import KEEP_SUPERSEDED_S, delete_superseded
from learning.weights.count_progress import CountProgress
from runtime.clickhouse import ClickHouse, connect
from runtime.errors import TallyError, reason_of
from runtime.http.best_effort import BestEffortRedis
from runtime.metrics import LEARNING_COUNTS_AGE
from runtime.redis import Redis
from runtime.settings import Settings
from runtime.tasks import running

PAUSES_PER_LOOK = 9
"""Least pause after a look, as a multiple of its duration: counting takes a tenth of the time at most."""
AGE_EVERY_S = 10.0
"""Interval in which the age of the counts is published."""
ROUNDS_PER_LOOK = 20
"""Most rounds of one namespace before the next one has its turn."""

# KEYS[1] the token of the holder. ARGV[1] own token, ARGV[2] milliseconds until the lease ends unless it is extended.
_TAKE = """
local holder = redis.call("GET", KEYS[1])
if holder and holder ~= ARGV[1] then
    return 0
end
redis.call("SET", KEYS[1], ARGV[1], "PX", ARGV[2])
return 1
"""
_EXTEND = """
if redis.call("GET", KEYS[1]) == ARGV[1] then
    redis.call("PEXPIRE", KEYS[1], ARGV[2])
end
return 1
"""
_RELEASE = """
if redis.call("GET", KEYS[1]) == ARGV[1] then
    redis.call("DEL", KEYS[1])
end
return 1
"""

log = logging.getLogger("tally.learning")


class CountLease:
    """Lease of one process. Without Redis every process holds it."""

    def __init__(self, settings: Settings, redis: BestEffortRedis) -> None:
        self._redis = redis if settings.redis.get_secret_value() else None
        self._key = f"{settings.key_prefix}:learning-counts:{settings.database}"
        self._token = secrets.token_hex(8)
        self._statement_ms = settings.report_timeout_ms + settings.query_timeout_ms

    async def take(self) -> bool:
        """Take or extend the lease for one more statement; returns whether this process holds it."""
        return await self._run(_TAKE, self._statement_ms) != 0

    async def extend(self, pause_s: float) -> None:
        """Keep the lease, if this process holds it, during a pause."""
        await self._run(_EXTEND, self._statement_ms + round(pause_s * 1000))

    async def release(self) -> None:
        """Let another process take the lease at once."""
        await self._run(_RELEASE)

    async def _run(self, script: str, *arguments: int) -> int | None:
        if self._redis is None:
            return None

        async def run(redis: Redis) -> int:
            return int(await redis.eval(script, 1, self._key, self._token, *arguments))

        return await self._redis.ask("learning counts", run)


@asynccontextmanager
async def counting(settings: Settings, redis: BestEffortRedis) -> AsyncIterator[None]:
    """Count until the block ends, over a connection of its own, so that no request waits for it."""
    async with connect(settings, lazily=True, threads=1) as database:
        leader = CountLeader(settings, database, redis)
        try:
            async with running(leader.count_periodically(), "counting for learned weights"):
                yield
        finally:
            await leader.lease.release()


class CountLeader:
    """Counting of one process: it counts while it holds the lease."""

    def __init__(self, settings: Settings, database: ClickHouse, redis: BestEffortRedis) -> None:
        self._settings = settings
        self._database = database
        self.lease = CountLease(settings, redis)
        self._counter = DayCounter(settings, database, holds_lease=self.lease.take)
        self._clean_at = time.monotonic() + KEEP_SUPERSEDED_S
        self._is_leader = self._is_stale = False

    async def count_periodically(self) -> None:
        """Look for touched days every TALLY_AGGREGATES_EVERY_MS, or less often where a look takes long."""
        pause_s = self._settings.aggregates_every_ms / 1000
        while True:
            await self._pause(pause_s)
            began = time.monotonic()
            try:
                await self.count()
            except Exception as error:  # any error: without this task nothing would ever be counted
                log.warning("counting for learned weights failed: %s", reason_of(error))
            took_s = time.monotonic() - began
            pause_s = max(self._settings.aggregates_every_ms / 1000, PAUSES_PER_LOOK * took_s)
            if self._is_leader:
                await self.lease.extend(pause_s)

    async def _pause(self, pause_s: float) -> None:
        """Wait, and publish the age of the counts from time to time: it grows while nothing counts."""
        due_at = time.monotonic() + pause_s
        while (left_s := due_at - time.monotonic()) > 0:
            await asyncio.sleep(min(left_s, AGE_EVERY_S))
            with suppress(TallyError):
                self._publish_age(await self._counter.namespaces())

    async def count(self) -> None:
        """Count all touched days if this process is the leader, and publish the age of the counts.

        Raises Unavailable, RangeTooLarge.
        """
        known = await self._counter.namespaces()
        self._is_leader = bool(known) and await self.lease.take()
        try:
            if self._is_leader:
                known = await self._count_all(known)
                await self._clean()
        except LeaseLost:
            self._is_leader = False
            log.info("another process counts for learned weights now")
        finally:
            self._publish_age(known)

    async def _count_all(self, known: Mapping[str, CountProgress]) -> dict[str, CountProgress]:
        """Count every namespace, those with the oldest counts first; an error of one is logged."""
        found = dict(known)
        seen = await self._counter.look_at_log(known)
        for namespace in sorted(known, key=lambda name: known[name].as_of_ms):
            try:
                for _ in range(ROUNDS_PER_LOOK):
                    done = await self._counter.run_round(namespace, seen, found[namespace])
                    found[namespace] = done.progress
                    if not done.is_to_continue:
                        break
            except TallyError as error:
                log.warning("counting for learned weights in namespace %s failed: %s", namespace, error)
        return found

    async def _clean(self) -> None:
        if time.monotonic() >= self._clean_at:
            self._clean_at = time.monotonic() + KEEP_SUPERSEDED_S
            await delete_superseded(self._settings, self._database)

    def _publish_age(self, known: Mapping[str, CountProgress]) -> None:
        age_s = self._counter.age_s(known)
        LEARNING_COUNTS_AGE.set(age_s)
        is_stale = age_s * 1000 > self._settings.aggregates_stale_ms
        if is_stale and not self._is_stale:
            log.warning(
                "the counts that weights are learned from are %.0f s old (TALLY_AGGREGATES_STALE_MS=%d); `tally learn "
                "counts` shows which",
                age_s,
                self._settings.aggregates_stale_ms,
            )
        self._is_stale = is_stale
