"""`make bench-lookup`: lookups of whole records by id, with growing tables, alone and while events are written.

The engine generates rows as wide as those of the throughput benchmark. `SELECT 1` over the same connection is the
baseline; it alternates with lookups, because the machine's speed changes from one second to the next. Every
measurement ends by time, and while events are written it never outlasts them.
"""

import argparse
import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from benchmarks import command
from benchmarks.command import Percentiles, percentiles_of
from benchmarks.filled_rows import fill, id_of
from benchmarks.load import sender
from benchmarks.systems import Tally
from deploy.embedded.stack import Stack
from producers.producer import Producer
from producers.simulation.simulator import Simulator
from readers.lookup import Lookups
from runtime.clickhouse import ClickHouse
from runtime.settings import Settings
from runtime.tasks import cancel_and_wait
from schemas.outcome import Stored

IN_FLIGHT = 64
ALTERNATING_SHARE = 0.75
"""Share of a measurement's time for alternating calls; lookups in flight at once have the rest."""
WARM_UP_CALLS = 20
START_S = 3.0
"""Seconds of writing before a measurement."""
READY_S = 60.0
"""Longest start of the workers."""
POLL_S = 0.1
SPARE_S = 10.0
"""Seconds of further writing, for calls that are in flight when a measurement ends."""


class LookupTimes(NamedTuple):
    """Latencies of lookups in a table of `rows`, in milliseconds, alone or while events are written."""

    rows: int
    writing_per_s: float
    select_1: Percentiles
    lookup: Percentiles
    calls: int
    """Number of measured lookups, and of `SELECT 1` between them."""
    per_s: float
    """Lookups per second with IN_FLIGHT in flight."""


Ask = Callable[[], Awaitable[object]]


async def _milliseconds(ask: Ask) -> float:
    begun = time.perf_counter()
    await ask()
    return (time.perf_counter() - begun) * 1000


async def alternate(asks: tuple[Ask, Ask], seconds: float, tries: int) -> list[tuple[float, float]]:
    """Measure two calls in turn, in milliseconds: once at least, `tries` times at most, for about `seconds`."""
    deadline = time.monotonic() + seconds
    took: list[tuple[float, float]] = []
    while not took or (len(took) < tries and time.monotonic() < deadline):
        took.append((await _milliseconds(asks[0]), await _milliseconds(asks[1])))
    return took


async def calls_per_s(ask: Ask, seconds: float) -> float:
    """Measure calls per second with IN_FLIGHT in flight, for about `seconds`."""
    begun, done = time.monotonic(), 0

    async def keep_asking() -> None:
        nonlocal done
        while time.monotonic() - begun < seconds:
            await ask()
            done += 1

    await asyncio.gather(*(keep_asking() for _ in range(IN_FLIGHT)))
    return done / (time.monotonic() - begun)


async def measure(database: ClickHouse, rows: int, writing_per_s: float, options: argparse.Namespace) -> LookupTimes:
    """Measure all figures for one table size, in about `options.seconds`."""
    chance, lookups = random.Random(rows), Lookups(database, 2_000)

    async def select_1() -> None:
        await database.rows("SELECT 1")

    async def look() -> None:
        wanted = id_of(chance.randrange(rows))
        found = await lookups.get("default", wanted)
        if not isinstance(found, Stored) or found.row["interaction_id"] != wanted:
            raise RuntimeError(f"{wanted} is not found")

    for _ in range(WARM_UP_CALLS):
        await look()
    took = await alternate((select_1, look), options.seconds * ALTERNATING_SHARE, options.tries)
    baseline, alone = map(percentiles_of, zip(*took, strict=True))
    per_s = await calls_per_s(look, options.seconds * (1 - ALTERNATING_SHARE))
    return LookupTimes(rows, writing_per_s, baseline, alone, len(took), per_s)


async def start_workers(system: Tally, settings: Settings) -> None:
    """Start the workers, and wait until they have decided about an event."""
    system.start()
    before = await system.done()
    async with Producer(settings) as producer:
        await producer.emit(next(iter(Simulator(before))))
    async with asyncio.timeout(READY_S):
        while await system.done() == before:
            await asyncio.sleep(POLL_S)


async def while_writing(
    stack: Stack, settings: Settings, database: ClickHouse, rows: int, options: argparse.Namespace
) -> LookupTimes:
    """Measure while two workers store events at a rate."""
    async with sender(settings, options.write, START_S + options.seconds + SPARE_S, seed=rows) as load:
        system = Tally(stack, settings, database, 2, 0)
        await start_workers(system, settings)
        writing = asyncio.create_task(load.send())
        await asyncio.sleep(START_S)
        found = await measure(database, rows, options.write, options)
        if writing.done():
            writing.result()
        await cancel_and_wait(writing)
        print(await system.stop(), flush=True)
    return found


async def run(options: argparse.Namespace) -> list[LookupTimes]:
    """Measure each table size, alone and while writing."""
    found: list[LookupTimes] = []
    with command.temporary_stack(options.folder) as stack:
        settings = command.named(stack, "lookups")
        async with command.installed(settings) as database:
            before = 0
            for rows in sorted(set(options.rows)):
                begun = time.monotonic()
                await fill(database, before, rows)
                before = rows
                print(f"{rows:,} rows after {time.monotonic() - begun:.0f} s", flush=True)
                found.append(await measure(database, rows, 0, options))
                print(found[-1], flush=True)
                if options.write:
                    found.append(await while_writing(stack, settings, database, rows, options))
                    print(found[-1], flush=True)
    return found


def report(found: list[LookupTimes]) -> None:
    """Print the table; its ratios are those of a lookup to `SELECT 1` between the lookups."""
    columns = ["rows", "written/s", "calls", "SELECT 1 p50", "p99", "lookup p50", "p99"]
    columns += ["p50/p50", "p99/p50", "p99/p99", "lookups/s"]
    rows = []
    for each in found:
        lookup, baseline = each.lookup, each.select_1
        ratios = (lookup.p50 / baseline.p50, lookup.p99 / baseline.p50, lookup.p99 / baseline.p99)
        times = (f"{value:.1f}" for value in (*each.select_1, *each.lookup, *ratios))
        rows.append((f"{each.rows:,}", f"{each.writing_per_s:,.0f}", str(each.calls), *times, f"{each.per_s:,.0f}"))
    command.show(columns, rows)


def main() -> None:
    """Run the benchmark."""
    parser = command.parser_of("bench-lookup", __doc__, "ARGS='--rows 1000000 10000000'")
    parser.add_argument(
        "--rows", type=command.at_least(1, int), nargs="+", default=[1_000_000, 10_000_000], help="sizes of the table"
    )
    parser.add_argument(
        "--write",
        type=command.at_least(0, float),
        default=20_000,
        help="events per second written concurrently; 0: none",
    )
    parser.add_argument(
        "--seconds",
        type=command.at_least(1, float),
        default=20,
        help="seconds of each measurement, alone and while writing",
    )
    parser.add_argument(
        "--tries", type=command.at_least(1, int), default=1_000, help="maximum lookups measured one by one"
    )
    options = parser.parse_args()
    found = asyncio.run(run(options))
    report(found)
    command.save(options.folder, "lookup", [each._asdict() for each in found])
    with command.plot(options.folder, "lookup", "A whole record by id") as axes:
        for label, some in (("alone", [each for each in found if not each.writing_per_s]),
                            ("while writing", [each for each in found if each.writing_per_s])):  # fmt: skip
            rows = [each.rows for each in some]
            axes.plot(rows, [each.lookup.p50 for each in some], "o-", label=f"{label}, p50")
            axes.plot(rows, [each.lookup.p99 for each in some], "o-", label=f"{label}, p99")
        axes.plot([each.rows for each in found], [each.select_1.p50 for each in found], "k.", label="SELECT 1, p50")
        axes.set(xlabel="rows", ylabel="ms", xscale="log", ylim=(0, None))
        axes.legend()


if __name__ == "__main__":
    main()
