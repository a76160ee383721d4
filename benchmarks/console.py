"""`make bench-console`: the console on one machine, in three parts. A part that fails prints its error.

`overview` measures the page and each of its panels on many rows: time, bytes, and rows that ClickHouse reads. `live`
measures live events at a rate, for one viewer over HTTP and one page in Chromium: counts, memory and lag. Both share a
database, so live events arrive in a large table. `viewers` measures many viewers beside workers that drain a topic:
events/s with and without them, CPU and latencies.
"""

import argparse
import asyncio
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks import command, console_live, console_overview, console_rows, console_viewers
from benchmarks.reports import wait_for_merges
from deploy.embedded.stack import Stack
from runtime.clickhouse import ClickHouse

PARTS = ("overview", "live", "viewers")
MERGES_S = 900.0
"""Longest wait for merges after the rows are generated."""
Results = dict[str, Any]


async def _attempt(name: str, part: Callable[[], Awaitable[object]], found: Results) -> None:
    """Run a part, and keep its result, or print and keep its error."""
    begun = time.monotonic()
    print(f"{name}: begins", flush=True)
    try:
        found[name] = await part()
    except Exception as error:  # a part of any kind of failure must not end the others
        traceback.print_exc()
        found[name] = {"error": f"{type(error).__name__}: {error}"}
    print(f"{name}: ended after {time.monotonic() - begun:.0f} s", flush=True)


async def _fill(database: ClickHouse, rows: int) -> dict[str, float]:
    """Generate the rows, and wait for merges; return the seconds of both."""
    begun = time.monotonic()
    async for number in console_rows.fill(database, rows):
        print(f"{number:,} of {rows:,} rows after {time.monotonic() - begun:.0f} s", flush=True)
    filled_s = time.monotonic() - begun
    parts = await wait_for_merges(database, MERGES_S)
    return {"fill_s": filled_s, "merge_s": time.monotonic() - begun - filled_s, "parts": parts}


async def _on_rows(stack: Stack, options: argparse.Namespace, found: Results) -> None:
    """Run the parts that share the large table."""
    settings = command.named(stack, "console", api_namespaces=console_rows.NAMESPACES)
    async with command.installed(settings) as database:
        if options.rows:
            await _attempt("rows", lambda: _fill(database, options.rows), found)
        if "overview" in options.only:
            await _attempt(
                "overview", lambda: console_overview.measure(stack, settings, database, options.looks), found
            )
        if "live" in options.only:
            await _attempt("live", lambda: console_live.measure(stack, settings, database, options), found)


async def run(options: argparse.Namespace, found: Results) -> None:
    """Measure the chosen parts, and add their results to `found`."""
    with command.temporary_stack(options.folder) as stack:
        if {"overview", "live"} & set(options.only):
            await _on_rows(stack, options, found)
        if "viewers" in options.only:
            await _attempt("viewers", lambda: console_viewers.measure(stack, options), found)


def report(found: Results) -> Results:
    """Print the tables of the parts that succeeded; return all results as JSON values."""
    out = Results()
    for name, result in found.items():
        out[name] = result
        if isinstance(result, console_overview.OverviewCost):
            console_overview.report(result)
            out[name] = _plain(result)
        elif isinstance(result, console_live.LiveCost):
            console_live.report(result)
            out[name] = vars(result)
        elif name == "viewers" and isinstance(result, list):
            ratios = console_viewers.report(result)
            out[name] = {"ratios": ratios, "rounds": _plain(result)}
        elif "error" in result:
            print(f"{name} failed: {result['error']}")
    return out


def _plain(value: Any) -> Any:
    """Return named tuples as objects."""
    if hasattr(value, "_asdict"):
        return {name: _plain(each) for name, each in value._asdict().items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def _options() -> argparse.Namespace:
    parser = command.parser_of("bench-console", __doc__, "ARGS='--only overview --rows 10000000'")
    at_least = command.at_least
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--rows", type=at_least(0, int), default=100_000_000, help="stored events of ten days")
    parser.add_argument("--looks", type=at_least(1, int), default=20, help="warm requests of each panel")
    parser.add_argument("--rate", type=at_least(50, float), default=20_000, help="live events per second")
    parser.add_argument("--minutes", type=at_least(0.1, float), default=10, help="minutes of live events")
    parser.add_argument("--viewers", type=at_least(2, int), default=50, help="viewers beside the workers")
    parser.add_argument("--events", type=at_least(10_000, int), default=5_000_000, help="events that workers drain")
    parser.add_argument("--workers", type=at_least(1, int), default=2, help="workers that drain")
    parser.add_argument("--rounds", type=at_least(1, int), default=3, help="pairs of drains")
    parser.add_argument("--quick", action="store_true", help="only check that it works; the figures mean nothing")
    options = parser.parse_args()
    if options.quick:
        options.rows, options.looks, options.rate, options.minutes = 2_000_000, 5, 2_000, 1 / 3
        options.events, options.rounds = 200_000, 1
    return options


def main() -> None:
    """Run the benchmark."""
    options, found, interrupted = _options(), Results(), False
    try:
        asyncio.run(run(options, found))
    except KeyboardInterrupt:
        interrupted = True
    except Exception as error:  # such as a store that does not stop: results of the parts are kept
        traceback.print_exc()
        found["stack"] = {"error": f"{type(error).__name__}: {error}"}
    command.save(options.folder, "console", report(found))
    live = found.get("live")
    if isinstance(live, console_live.LiveCost) and live.minutes:
        with command.plot(options.folder, "console", f"Resident memory at {live.sent_per_s:,.0f} events/s") as axes:
            for name in live.minutes[0]["mib"]:
                axes.plot([each["mib"].get(name) for each in live.minutes], "o-", label=name)
            axes.set(xlabel="period", ylabel="MiB", ylim=(0, None))
            axes.legend()
    if interrupted:
        sys.exit(130)
    if any(isinstance(each, dict) and "error" in each for each in found.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
