"""Session signals of one run: a configured retriever, a reader of all sessions meanwhile, and the invariants."""

import asyncio
from collections.abc import Mapping
from typing import Any

from consumers.session_signals import SessionSender
from learning.weights.sessions import SessionReader
from runtime.clickhouse import ClickHouse
from runtime.errors import TallyError
from runtime.learning_configs import LearningConfigs
from runtime.redis import Redis, connect_redis
from runtime.session_signals import LiveSession, SessionCounts, SessionSignals
from runtime.settings import Settings
from tests.chaos.traffic import RETRIEVERS, SESSIONS
from tests.sessions_lab import configure, hash_of, session_reader, stored

PAUSE_S = 0.05
CONFIGURED = RETRIEVERS[0]


class Sessions:
    """Sessions of the traffic under the one configuration."""

    def __init__(self, settings: Settings, database: ClickHouse) -> None:
        self._settings = settings
        self._database = database
        self._stopped = asyncio.Event()
        self._all = [LiveSession("default", CONFIGURED, 1, session) for session in SESSIONS]

    async def configure(self) -> None:
        """Store the configuration, before any worker starts."""
        await configure(self._database, CONFIGURED)

    async def keep_reading(self) -> None:
        """Read every session again and again until `stop_reading`, so that rebuilds and workers race."""
        async with session_reader(self._settings, self._database) as reader:
            while not self._stopped.is_set():
                await self._read(reader)
                await asyncio.sleep(PAUSE_S)

    def stop_reading(self) -> None:
        """End the reads."""
        self._stopped.set()

    async def _read(self, reader: SessionReader) -> dict[str, SessionCounts | None]:
        found = await asyncio.gather(
            *(reader.events(each.namespace, each.retriever, each.first_version, each.session_id) for each in self._all)
        )
        return {
            each.session_id: None if counts is None else dict(counts)
            for each, counts in zip(self._all, found, strict=True)
        }

    async def problems(self, committed: Mapping[int, int], *, was_lost: bool) -> list[str]:
        """Every session that differs from the tables: in Redis, where it is whole or nothing was lost, and as read."""
        expected = {
            each.session_id: await stored(self._database, self._settings.topic, each.session_id, CONFIGURED)
            for each in self._all
        }
        async with connect_redis(self._settings) as redis:
            if was_lost:
                await self._check_as_a_worker(redis, committed)
            problems = await self._differences(redis, expected, was_lost=was_lost)
            async with session_reader(self._settings, self._database) as reader:
                read = await self._read(reader)
            problems += [
                f"session {name} was read as {counts} instead of {expected[name]}"
                for name, counts in read.items()
                if counts != expected[name]
            ]
            problems += await self._differences(redis, expected, was_lost=False)
            return problems + await self._foreign_keys(redis)

    async def _check_as_a_worker(self, redis: Redis, committed: Mapping[int, int]) -> None:
        """Notice losses, as a worker to which nothing arrives does after TALLY_SESSION_CHECK_MS."""
        configs = LearningConfigs(self._settings, self._database)
        await configs.refresh()
        try:
            await SessionSender(self._settings, redis, configs).check(committed)
        except TallyError as error:
            raise RuntimeError("an undisturbed check of session signals failed") from error

    async def _differences(self, redis: Redis, expected: Mapping[str, SessionCounts], *, was_lost: bool) -> list[str]:
        problems = []
        places = [each.place for each in self._all]
        for each, whole in zip(self._all, await SessionSignals(self._settings).read(redis, places), strict=True):
            found = await hash_of(redis, self._settings, each.place)
            is_exact = whole is not None or (found is not None and not was_lost)
            if is_exact and found != expected[each.session_id]:
                kind = "whole" if whole is not None else "incomplete"
                problems.append(
                    f"the {kind} session {each.session_id} has {found} instead of {expected[each.session_id]}"
                )
        return problems

    async def _foreign_keys(self, redis: Redis) -> list[str]:
        """Sessions of events that must not count."""
        signals = SessionSignals(self._settings)
        known = {signals.session_key(each.place) for each in self._all}
        pattern: Any = f"{self._settings.key_prefix}:{{*:s*}}:" + "?" * 32
        names = [key.decode(errors="replace") async for key in redis.scan_iter(pattern, count=10_000)]
        return [
            f"{name} is no session of the configured retriever" for name in names if ":s" in name and name not in known
        ]
