"""Demo of `tally up`: an import of real data, then simulated traffic."""

import asyncio
import itertools
import time
from collections.abc import Callable

from producers.open_bandit import read_log
from producers.producer import Producer
from producers.simulator import Simulator
from readers.overview import read_overview
from runtime.clickhouse import ClickHouse
from runtime.errors import Unavailable
from runtime.settings import Settings
from tally.feed import EmitSummary, feed, wait_for_verdicts
from tally.pace import paced

VERDICTS_WAIT_S = 60.0


class Demo:
    """Demo traffic of `rate` events per second for `seconds` (None: until stopped)."""

    def __init__(
        self,
        settings: Settings,
        database: ClickHouse,
        api_url: str,
        *,
        rate: float,
        seconds: float | None,
        say: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._database = database
        self._api_url = api_url
        self._rate = rate
        self._seconds = seconds
        self._say = say

    async def run(self, stop: asyncio.Event) -> None:
        """Import, print an example lookup, simulate, and summarize. Raises Unavailable when outcomes are missing."""
        settings = self._settings
        async with Producer(settings) as producer:
            rows = itertools.takewhile(lambda _row: not stop.is_set(), read_log("random", "all", settings.namespace))
            fed = await feed(producer, rows, namespace=settings.namespace, keep_offsets=True)
            if fed.accepted and not stop.is_set():
                await self._say_imported(fed)
            traffic = iter(Simulator(seed=time.time_ns()))
            live = paced(traffic, rate=self._rate, seconds=self._seconds, stop=stop)
            fed = await feed(producer, live, namespace=settings.namespace, keep_offsets=self._seconds is not None)
        if not stop.is_set():
            await self._say_simulated(fed)

    async def _say_imported(self, fed: EmitSummary) -> None:
        verdicts = await wait_for_verdicts(self._settings, self._database, fed, VERDICTS_WAIT_S)
        self._say(
            f"imported {fed.accepted:,} Open Bandit rows: {verdicts.stored:,} stored, "
            f"{verdicts.duplicates:,} duplicates"
        )
        self._say(f"one stored id {fed.last_id}")
        url = f"{self._api_url}/v1/retrievers/interactions/{fed.last_id}"
        # Printed on the terminal only: no log file of the stack has the key.
        self._say(f"curl -H 'Authorization: Bearer {self._settings.api_key.get_secret_value()}' {url}")

    async def _say_simulated(self, fed: EmitSummary) -> None:
        verdicts = await wait_for_verdicts(self._settings, self._database, fed, VERDICTS_WAIT_S)
        overview = await read_overview(self._settings, self._database)
        self._say(
            f"simulated {fed.accepted:,} events in {self._seconds:.0f} s: {verdicts.stored:,} stored, "
            f"{verdicts.duplicates:,} duplicates, {verdicts.rejected:,} rejected, "
            f"{fed.accepted - verdicts.total:,} pending"
        )
        stored = overview.verdicts
        self._say(
            f"in all {stored.stored:,} stored, {stored.duplicates:,} duplicates, {stored.rejected:,} rejected, "
            f"lag {overview.lag:,}"
        )
        if verdicts.total < fed.accepted:
            raise Unavailable(f"{fed.accepted - verdicts.total} events had no outcome after {VERDICTS_WAIT_S:.0f} s")
