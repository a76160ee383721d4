"""Demo of `tally up`: an import of real data, then simulated traffic: at first a backfill, then live."""

import asyncio
import time
from collections.abc import Callable, Iterable

from producers.open_bandit import read_log
from producers.producer import ImportedInteraction, Producer
from producers.simulation.sessions import EXECUTION_PREFIX
from producers.simulation.simulator import Simulator
from producers.simulation.timeline import Backfill
from readers.overview import read_overview
from runtime.clickhouse import ClickHouse
from runtime.errors import Unavailable
from runtime.settings import Settings
from schemas.interaction import Interaction
from tally.feed import EmitSummary, feed, wait_for_verdicts
from tally.pace import in_real_time, until

VERDICTS_WAIT_S = 60.0
OPEN_BANDIT = "open-bandit"
"""Namespace of the imported data, which must not mix with the simulated."""
BACKFILL_DAYS = 7
BACKFILL_RATE = 0.1
"""Simulated events per second of a backfill: about 8,500 a day, emitted once in a data directory."""


def with_demo_namespace(settings: Settings) -> Settings:
    """Let the API key read the imported data, too, unless the namespaces of the key are set."""
    if "api_namespaces" in settings.model_fields_set:
        return settings
    return settings.model_copy(update={"api_namespaces": (*settings.api_namespaces, OPEN_BANDIT)})


class Demo:
    """Demo on a running stack. `say` takes lines for the terminal."""

    def __init__(
        self, settings: Settings, database: ClickHouse, stop: asyncio.Event, say: Callable[[str], None], days: int
    ) -> None:
        """Prepare a demo with a backfill of some days; 0: without one."""
        self._days = days
        self._settings = settings
        self._database = database
        self._stop = stop
        self._say = say

    async def run(self, api_url: str, rate: float, seconds: float | None) -> None:
        """Import, backfill, simulate `rate` events per second in real time for `seconds` (None: no end), and summarize.

        Ends when `stop` is set. Raises Unavailable when outcomes are missing.
        """
        async with Producer(self._settings) as producer:
            await self._import(producer, api_url)
            if self._days and not self._stop.is_set() and not await self._has_simulated():
                await self._backfill(producer)
            traffic = in_real_time(Simulator(seed=time.time_ns()).live(rate), self._stop, seconds=seconds)
            space = self._settings.namespace
            fed = await feed(producer, traffic, namespace=space, keep_offsets=seconds is not None)
        if not self._stop.is_set():
            await self._summarize(fed, seconds or 0)

    async def _import(self, producer: Producer, api_url: str) -> None:
        """Import real data, and print an example lookup."""
        fed = await self._feed(producer, read_log("random", "all", OPEN_BANDIT), OPEN_BANDIT)
        if not fed.accepted or self._stop.is_set():
            return
        verdicts = await wait_for_verdicts(self._settings, self._database, fed, VERDICTS_WAIT_S)
        counts = f"{verdicts.stored:,} stored, {verdicts.duplicates:,} duplicates"
        self._say(f"imported {fed.accepted:,} Open Bandit rows: {counts}")
        self._say(f"one stored id {fed.last_id}")
        # Printed on the terminal only: no log file of the stack has the key.
        key = f"-H 'Authorization: Bearer {self._settings.api_key.get_secret_value()}'"
        url = f"{api_url}/v1/retrievers/interactions/{fed.last_id}"
        self._say(f"curl {key} -H 'X-Namespace: {OPEN_BANDIT}' {url}")

    async def _has_simulated(self) -> bool:
        """Return whether simulated events are stored."""
        found = await self._database.rows(
            "SELECT 1 FROM interactions "
            "WHERE namespace = {namespace:String} AND startsWith(execution_id, {prefix:String}) LIMIT 1",
            {"namespace": self._settings.namespace, "prefix": EXECUTION_PREFIX},
        )
        return bool(found)

    async def _backfill(self, producer: Producer) -> None:
        days = "1 day" if self._days == 1 else f"{self._days} days"
        self._say(f"simulating the last {days.removeprefix('1 ')} of searches")
        simulator = Simulator(seed=time.time_ns(), backfill=Backfill(days=self._days, rate=BACKFILL_RATE))
        fed = await self._feed(producer, simulator, self._settings.namespace)
        if not self._stop.is_set():
            verdicts = await wait_for_verdicts(self._settings, self._database, fed, VERDICTS_WAIT_S)
            self._say(f"simulated {days}, {fed.accepted:,} events: {verdicts.as_text}")

    async def _feed(
        self, producer: Producer, source: Iterable[Interaction | ImportedInteraction], namespace: str
    ) -> EmitSummary:
        return await feed(producer, until(self._stop, source), namespace=namespace, keep_offsets=True)

    async def _summarize(self, fed: EmitSummary, seconds: float) -> None:
        verdicts = await wait_for_verdicts(self._settings, self._database, fed, VERDICTS_WAIT_S)
        pending = fed.accepted - verdicts.total
        self._say(f"simulated {fed.accepted:,} events in {seconds:.0f} s: {verdicts.as_text}, {pending:,} pending")
        overview = await read_overview(self._settings, self._database)
        self._say(f"in all {overview.verdicts.as_text}, lag {overview.lag:,}")
        if pending:
            raise Unavailable(f"{pending} events had no outcome after {VERDICTS_WAIT_S:.0f} s")
