"""`make bench-lookup`: lookups of whole records by id, with growing tables, alone and while events are written.

The engine generates rows as wide as those of the throughput benchmark. `SELECT 1` over the same connection is the
baseline.
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
from readers.lookup import Lookups
from runtime.clickhouse import ClickHouse
from runtime.settings import Settings
from runtime.tasks import cancel_and_wait
from schemas.outcome import Stored


class LookupTimes(NamedTuple):
    """Latencies of lookups in a table of `rows`, in milliseconds, alone or while events are written."""

    rows: int
    writing_per_s: float
    select_1: Percentiles
    lookup: Percentiles
    per_s: float
    """Lookups per second with 64 in flight."""


async def times(ask: Callable[[], Awaitable[object]], tries: int) -> Percentiles:
    """Measure sequential calls, in milliseconds."""
    took = []
    for _ in range(tries):
        begun = time.perf_counter()
        await ask()
        took.append((time.perf_counter() - begun) * 1000)
    return percentiles_of(took)


async def measure(database: ClickHouse, rows: int, writing_per_s: float, tries: int) -> LookupTimes:
    """Measure all figures for one table size."""
    chance, lookups = random.Random(rows), Lookups(database, 2_000)

    async def look() -> None:
        wanted = id_of(chance.randrange(rows))
        found = await lookups.get("default", wanted)
        if not isinstance(found, Stored) or found.row["interaction_id"] != wanted:
            raise RuntimeError(f"{wanted} is not found")

    await times(look, 20)
    select_1 = await times(lambda: database.rows("SELECT 1"), tries)
    alone = await times(look, tries)
    deadline, done = time.monotonic() + 5, 0

    async def keep_looking() -> None:
        nonlocal done
        while time.monotonic() < deadline:
            await look()
            done += 1

    await asyncio.gather(*(keep_looking() for _ in range(64)))
    return LookupTimes(rows, writing_per_s, select_1, alone, done / 5)


async def while_writing(
    stack: Stack, settings: Settings, database: ClickHouse, rows: int, options: argparse.Namespace
) -> LookupTimes:
    """Measure while two workers store events at a rate."""
    async with sender(settings, options.write, options.seconds, seed=rows) as load:
        system = Tally(stack, settings, database, 2, 0)
        system.start()
        writing = asyncio.create_task(load.send())
        await asyncio.sleep(5)
        found = await measure(database, rows, options.write, options.tries)
        if writing.done():
            writing.result()
            raise RuntimeError("the measurement took longer than the writes: increase --seconds")
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
            for rows in options.rows:
                begun = time.monotonic()
                await fill(database, before, rows)
                before = rows
                print(f"{rows:,} rows after {time.monotonic() - begun:.0f} s", flush=True)
                found.append(await measure(database, rows, 0, options.tries))
                print(found[-1], flush=True)
                if options.write:
                    found.append(await while_writing(stack, settings, database, rows, options))
                    print(found[-1], flush=True)
    return found


def report(found: list[LookupTimes]) -> None:
    """Print the table."""
    columns = ["rows", "written/s", "SELECT 1 p50", "p99", "lookup p50", "p99", "p50 ratio", "p99 ratio", "lookups/s"]
    rows = []
    for each in found:
        ratios = (each.lookup.p50 / each.select_1.p50, each.lookup.p99 / each.select_1.p50)
        times = (f"{value:.1f}" for value in (*each.select_1, *each.lookup, *ratios))
        rows.append((f"{each.rows:,}", f"{each.writing_per_s:,.0f}", *times, f"{each.per_s:,.0f}"))
    command.show(columns, rows)


def main() -> None:
    """Run the benchmark."""
    parser = command.parser_of("bench-lookup", __doc__, "ARGS='--rows 1000000 10000000'")
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--write", type=float, default=20_000, help="events per second written concurrently; 0: none")
    parser.add_argument("--seconds", type=float, default=40.0, help="seconds of events to write")
    parser.add_argument("--tries", type=int, default=400)
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
