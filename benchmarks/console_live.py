"""Live events at a rate: one viewer over HTTP and one page in Chromium, both checked against the tables."""

import argparse
import asyncio
import math
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import httpx

from benchmarks import topic
from benchmarks.command import show
from benchmarks.console_browser import BrowserUnavailableError, LivePage, PageState, live_page
from benchmarks.console_looks import Looks, PeriodMeter, follow
from benchmarks.console_overview import rows_read
from benchmarks.console_web import Website, website
from benchmarks.load import sender
from benchmarks.lookup import start_workers
from benchmarks.meter import Meter, resident_bytes
from benchmarks.systems import Tally
from console.settings import ConsoleSettings
from deploy.embedded.stack import Stack
from readers.verdict_sql import select_verdicts
from runtime.clickhouse import ClickHouse
from runtime.settings import Settings
from runtime.tasks import cancel_and_wait

EVERY_S = ConsoleSettings.model_fields["live_every_ms"].default / 1000
WORKERS = 2
LAG_EVERY_S = 1.0
CATCH_UP_S = 600.0
"""Longest time from the end of the load until every event has its outcome."""
LAST_LOOKS_S = 3 * EVERY_S + 2.0
"""Time for the viewers' looks at the last events."""
MIB = 1024 * 1024


@dataclass
class LiveCost:
    """Result of the measurement."""

    sent_per_s: float = 0.0
    minutes: list[dict[str, Any]] = field(default_factory=list)
    """Looks, memory, CPU and lag of each period."""
    table: Mapping[str, int] = field(default_factory=dict)
    """Events of the namespace by outcome."""
    counted: Mapping[str, int] = field(default_factory=dict)
    """Sums of the counts that the HTTP viewer got."""
    skipped: int = 0
    difference: int = 0
    """Events in the table, less those that the HTTP viewer counted."""
    browser: dict[str, Any] | None = None
    browser_difference: int | None = None
    errors: list[str] = field(default_factory=list)


class _Watched(NamedTuple):
    """Everything that is observed in each period."""

    stack: Stack
    site: Website
    database: ClickHouse
    workers: Tally
    looks: Looks
    page: LivePage | None


async def table_counts(database: ClickHouse, settings: Settings, since_ms: int) -> dict[str, int]:
    """Return the events of the topic and the first namespace since a time, by outcome."""
    condition = (
        "namespace = {namespace:String} AND _topic = {topic:String} "
        "AND timestamp >= fromUnixTimestamp64Milli({since:Int64}, 'UTC')"
    )
    given = {"namespace": topic.NAMESPACE, "topic": settings.topic, "since": since_ms}
    rows = await database.rows(select_verdicts(condition, "0"), given)
    return {str(verdict): int(events) for _, _, verdict, events, _ in rows}


async def measure(stack: Stack, settings: Settings, database: ClickHouse, options: argparse.Namespace) -> LiveCost:
    """Measure `options.minutes` at `options.rate` events per second."""
    begun_ms, seconds, found, looks = topic.now_ms(), options.minutes * 60, LiveCost(), Looks()
    async with AsyncExitStack() as opened:
        site = await opened.enter_async_context(website(stack, settings))
        workers = Tally(stack, settings, database, WORKERS, 0)
        opened.push_async_callback(_stop, workers)
        await start_workers(workers, settings)
        viewer = asyncio.create_task(follow(site, looks, EVERY_S))
        opened.push_async_callback(cancel_and_wait, viewer)
        page = await opened.enter_async_context(_page_or_none(site))
        load = await opened.enter_async_context(sender(settings, options.rate, seconds, seed=1, is_mixed=True))
        watched = _Watched(stack, site, database, workers, looks, page)
        observer = asyncio.create_task(_observe(watched, min(60.0, seconds / 4), found))
        opened.push_async_callback(cancel_and_wait, observer)
        found.sent_per_s = await load.send()
        await _until_settled(site)
        await asyncio.sleep(LAST_LOOKS_S)
        ended = [task.exception() for task in (viewer, observer) if task.done()]
        found.table = await table_counts(database, settings, begun_ms)
        found.counted, found.skipped, found.errors = dict(looks.counts), looks.skipped, looks.errors
        found.errors += [f"ended early: {error!r}" for error in ended]
        found.difference = sum(found.table.values()) - looks.counts.total()
        if (state := await _state(page)) is not None:
            found.browser, found.browser_difference = state._asdict(), sum(found.table.values()) - state.counted
    return found


async def _stop(workers: Tally) -> None:
    print(await workers.stop(), flush=True)


@asynccontextmanager
async def _page_or_none(site: Website) -> AsyncIterator[LivePage | None]:
    """Open the page in a browser; None, with a message, where there is none."""
    opened = live_page(site)
    try:
        page = await asyncio.to_thread(opened.__enter__)
    except BrowserUnavailableError as error:
        print(f"without a page in a browser: {error}", flush=True)
        yield None
        return
    try:
        yield page
    finally:
        await asyncio.to_thread(opened.__exit__, None, None, None)


async def _observe(watched: _Watched, period_s: float, found: LiveCost) -> None:
    """Add a period to `found` again and again, until cancelled."""
    pids = {
        "console": [watched.site.console.pid],
        "api": [watched.site.api.pid],
        "clickhouse": [watched.stack.pid("clickhouse")],
        "workers": watched.workers.worker_pids,
    }
    looks, meter = PeriodMeter(watched.looks), Meter(pids)
    rows, before = await rows_read(watched.database), await _state(watched.page)
    while True:
        meter.start()
        begun = time.monotonic()
        lag_ms = await _lags(watched.site, begun + period_s)
        seconds = time.monotonic() - begun
        rows_before, rows = rows, await rows_read(watched.database)
        period: dict[str, Any] = {
            **asdict(looks.read()),
            "lag_p50_ms": sorted(lag_ms)[len(lag_ms) // 2],
            "lag_max_ms": max(lag_ms),
            "rows_read_per_s": round((rows - rows_before) / seconds),
            "cores": {name: cpu_s / seconds for name, cpu_s in meter.cpu_s().items()},
            "mib": {name: sum(map(resident_bytes, some)) / MIB for name, some in pids.items()},
        }
        if (state := await _state(watched.page)) is not None:
            period |= {"page_looks": state.looks - (before.looks if before else 0), "page_rows": state.rows}
            period["mib"] |= {"renderer": state.renderer_bytes / MIB, "page heap": state.heap_bytes / MIB}
            before = state
        found.minutes.append(period)
        print(f"period {len(found.minutes)}: {_said(period)}", flush=True)


async def _state(page: LivePage | None) -> PageState | None:
    """Return the state of the page; None without one, or, with a message, when it does not answer."""
    if page is None:
        return None
    try:
        return await asyncio.to_thread(page.state)
    except BrowserUnavailableError as error:
        print(f"the page is not observed: {error}", flush=True)
        return None


async def _lags(site: Website, deadline: float) -> Sequence[float]:
    """Return lags in ms, observed each LAG_EVERY_S until a time; NaN where the lag is unknown."""
    found = list[float]()
    while not found or time.monotonic() < deadline:
        try:
            lag_ms = (await site.pipeline())["lag_ms"]
        except httpx.HTTPError as error:
            print(f"the lag is unknown: {error!r}", flush=True)
            lag_ms = None
        found.append(lag_ms if isinstance(lag_ms, int) else math.nan)
        await asyncio.sleep(LAG_EVERY_S)
    return [each for each in found if not math.isnan(each)] or [math.nan]


async def _until_settled(site: Website) -> None:
    """Wait until every event has its outcome. Raises RuntimeError after CATCH_UP_S."""
    deadline = time.monotonic() + CATCH_UP_S
    await asyncio.sleep(LAST_LOOKS_S)  # until the last events are in an observation
    while (await site.pipeline())["lag"]:
        if time.monotonic() > deadline:
            raise RuntimeError(f"events without an outcome {CATCH_UP_S:.0f} s after the load")
        await asyncio.sleep(LAG_EVERY_S)


def _said(period: Mapping[str, Any]) -> str:
    memory = ", ".join(f"{name} {mib:.0f}" for name, mib in period["mib"].items())
    cores = ", ".join(f"{name} {value:.2f}" for name, value in period["cores"].items())
    return (
        f"{period['looks']} looks of {period['p50_ms']:.0f} ms (p99 {period['p99_ms']:.0f}), "
        f"{period['failed']} failed; "
        f"{period['counted']:,} events, {period['shown']:,} shown, {period['skipped']:,} skipped; lag p50 "
        f"{period['lag_p50_ms']:.0f} ms, max {period['lag_max_ms']:.0f}; MiB {memory}; cores {cores}; "
        f"ClickHouse reads {period['rows_read_per_s']:,} rows/s"
    )


def report(found: LiveCost) -> None:
    """Print the table, and whether the counts agree."""
    names = sorted({name for each in found.minutes for name in each["mib"]})
    looks, memory = [], []
    for number, each in enumerate(found.minutes, 1):
        events = (f"{each[name]:,}" for name in ("counted", "shown", "skipped"))
        times = (f"{each[name]:,.0f}" for name in ("p50_ms", "p99_ms", "lag_p50_ms", "lag_max_ms"))
        looks.append((str(number), str(each["looks"]), str(each["failed"]), *events, *times))
        memory.append(
            (
                str(number),
                *(f"{each['mib'].get(name, math.nan):,.0f}" for name in names),
                str(each.get("page_rows", "")),
            )
        )
    show(["period", "looks", "failed", "counted", "shown", "skipped", "p50 ms", "p99", "lag p50 ms", "max"], looks)
    show(["period", *(f"{name} MiB" for name in names), "rows of the page"], memory)
    print(f"sent {found.sent_per_s:,.0f} events/s; in the table {dict(found.table)}; counted {dict(found.counted)}")
    print(f"difference of the HTTP viewer: {found.difference:,} events, {found.skipped:,} skipped")
    if found.browser is not None:
        state = found.browser
        print(
            f"difference of the page: {found.browser_difference:,} events, {state['skipped']:,} skipped, in "
            f"{state['looks']:,} looks ({state['failed']} failed), {state['shown']:,} shown, {state['rows']} rows kept"
        )
    for error in found.errors:
        print(f"failed: {error}")
