"""Redis's content of one run, claims and session signals, lost or reset to an earlier state while workers continue."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redis.asyncio import Redis

from runtime.settings import Settings

POLL_S = 0.04


class Claims:
    """Content of Redis under a run's key prefix."""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.redis.get_secret_value()
        self._pattern = f"{settings.key_prefix}*"
        self._snapshots: list[dict[bytes, tuple[bytes, int]]] = []
        self._is_stopped = False
        self.was_lost = False
        """Whether anything was deleted or reset."""

    @asynccontextmanager
    async def _redis(self) -> AsyncIterator[Redis]:
        """A new connection each time: the server may have been restarted since the last one."""
        redis = Redis.from_url(self._url)
        try:
            yield redis
        finally:
            await redis.aclose()

    async def forget(self) -> None:
        """Delete everything."""
        self.was_lost = True
        async with self._redis() as redis:
            keys = [key async for key in redis.scan_iter(self._pattern, count=10_000)]
            if keys:
                await redis.delete(*keys)

    async def restore(self) -> None:
        """Put back the last snapshot but one."""
        if len(self._snapshots) > 1:
            async with self._redis() as redis, redis.pipeline(transaction=True) as pipeline:
                for key, (value, ttl_ms) in self._snapshots[-2].items():
                    pipeline.restore(key, max(0, ttl_ms), value, replace=True)
                await pipeline.execute()

    async def keep_snapshots(self) -> None:
        """Take snapshots until `stop_keeping`: before Python 3.11.3 the Redis client may lose a cancellation."""
        async with self._redis() as redis:
            while not self._is_stopped:
                keys = [key async for key in redis.scan_iter(self._pattern, count=10_000)]
                async with redis.pipeline(transaction=True) as pipeline:  # a replica is never torn
                    for key in keys:
                        pipeline.dump(key)
                        pipeline.pttl(key)
                    answers = await pipeline.execute()
                values = zip(keys, answers[::2], answers[1::2], strict=True)
                found = {key: (value, ttl_ms) for key, value, ttl_ms in values if value is not None}
                if not self._snapshots or found != self._snapshots[-1]:
                    self._snapshots.append(found)
                await asyncio.sleep(POLL_S)

    def stop_keeping(self) -> None:
        """Take no further snapshot."""
        self._is_stopped = True
