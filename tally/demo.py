"""Demo of `tally up`: an import of real data, then simulated traffic."""

import asyncio
import itertools
import time
from collections.abc import Callable

from producers.open_bandit import read_log
from producers.producer import Producer
from producers.simulation.simulator import Simulator
from readers.overview import read_overview
from runtime.clickhouse import ClickHouse
from runtime.errors import Unavailable
from runtime.settings import Settings
from tally.feed import feed, wait_for_verdicts
from tally.pace import paced, until

VERDICTS_WAIT_S = 60.0


async def run_demo(
    settings: Settings,
    database: ClickHouse,
    api_url: str,
    stop: asyncio.Event,
    *,
    rate: float,
    seconds: float | None,
    say: Callable[[str], None],
) -> None:
    """Import, print an example lookup, simulate `rate` events per second for `seconds` (None: no end), and summarize.

    Ends when `stop` is set. Raises Unavailable when outcomes are missing.
    """
    space = settings.namespace
    async with Producer(settings) as producer:
        fed = await feed(producer, until(stop, read_log("random", "all", space)), namespace=space, keep_offsets=True)
        if fed.accepted and not stop.is_set():
            verdicts = await wait_for_verdicts(settings, database, fed, VERDICTS_WAIT_S)
            counts = f"{verdicts.stored:,} stored, {verdicts.duplicates:,} duplicates"
            say(f"imported {fed.accepted:,} Open Bandit rows: {counts}")
            say(f"one stored id {fed.last_id}")
            url = f"{api_url}/v1/retrievers/interactions/{fed.last_id}"
            # Printed on the terminal only: no log file of the stack has the key.
            say(f"curl -H 'Authorization: Bearer {settings.api_key.get_secret_value()}' {url}")
        events = None if seconds is None else int(rate * seconds)
        traffic = paced(itertools.islice(Simulator(seed=time.time_ns()), events), rate)
        fed = await feed(producer, until(stop, traffic), namespace=space, keep_offsets=seconds is not None)
    if not stop.is_set():
        verdicts = await wait_for_verdicts(settings, database, fed, VERDICTS_WAIT_S)
        pending = fed.accepted - verdicts.total
        say(f"simulated {fed.accepted:,} events in {seconds:.0f} s: {verdicts.as_text}, {pending:,} pending")
        overview = await read_overview(settings, database)
        say(f"in all {overview.verdicts.as_text}, lag {overview.lag:,}")
        if pending:
            raise Unavailable(f"{pending} events had no outcome after {VERDICTS_WAIT_S:.0f} s")
