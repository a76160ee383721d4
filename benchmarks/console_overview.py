"""The overview on many rows: the page itself, each panel, all panels together, and the rows that ClickHouse reads."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from benchmarks.command import Percentiles, percentiles_of, show
from benchmarks.console_web import Answer, PageCost, Website, load_page, load_panels, website
from console.screens.overview import RANGES
from deploy.embedded.stack import Stack
from readers.namespace_states import SHARED_S as STATES_SHARED_S
from readers.traffic import SHARED_S as TRAFFIC_SHARED_S
from runtime.clickhouse import ClickHouse
from runtime.settings import Settings

DEFAULT_RANGE = next(iter(RANGES))
EXPIRY_S = 0.2
"""Seconds beyond those for which callers share an answer, after which the next caller computes one."""
TRAFFIC = "/overview/traffic"
_ROWS_READ = "SELECT value FROM system.events WHERE event = 'SelectedRows'"


class PanelCost(NamedTuple):
    """Cost of one panel. Times in ms; rows are those that ClickHouse reads for it alone."""

    panel: str
    body_bytes: int
    cold_ms: float
    """The first request of an API process, alone."""
    cold_rows: int
    again_rows: int
    """When no shared answer is left."""
    warm: Percentiles
    """Together with the page's other panels, at a pace at which traffic is computed for each request."""
    errors: Sequence[str]


class OverviewCost(NamedTuple):
    """Cost of the overview."""

    page: PageCost
    cold_together_ms: float
    """All panels together, as the first requests of an API process."""
    warm_together: Percentiles
    panels: Sequence[PanelCost]
    counter_rows: int
    """Rows that reading the counter of rows adds to each figure."""


async def rows_read(database: ClickHouse) -> int:
    """Return the rows that ClickHouse has read since its start."""
    ((rows,),) = await database.rows(_ROWS_READ)
    return int(rows)


async def measure(stack: Stack, settings: Settings, database: ClickHouse, looks: int) -> OverviewCost:
    """Measure the overview in all its ranges, with `looks` warm requests of each panel."""
    async with website(stack, settings) as site:
        page, panels = await load_page(site, "/")
        ranges = [f"{TRAFFIC}?minutes={minutes}" for minutes in RANGES if minutes != DEFAULT_RANGE]
        cold = await _one_by_one(site, database, [*panels, *ranges])
        await asyncio.sleep(STATES_SHARED_S + EXPIRY_S)
        again = await _one_by_one(site, database, [*panels, *ranges])
        before = await rows_read(database)
        counter_rows = await rows_read(database) - before
    async with website(stack, settings) as site:
        await load_page(site, "/")
        cold_together_ms, _ = await load_panels(site, panels)
        together, warm = await _warm(site, panels, looks)
        await load_panels(site, ranges)
        for path in ranges:
            warm |= (await _warm(site, [path], looks))[1]
    costs = [
        PanelCost(
            path,
            len(cold[path][0].body),
            cold[path][0].ms,
            cold[path][1],
            again[path][1],
            percentiles_of(each.ms for each in warm[path]),
            sorted({each.error for each in (cold[path][0], again[path][0], *warm[path]) if each.error}),
        )
        for path in [*panels, *ranges]
    ]
    return OverviewCost(page, cold_together_ms, percentiles_of(together), costs, counter_rows)


async def _one_by_one(site: Website, database: ClickHouse, paths: Sequence[str]) -> Mapping[str, tuple[Answer, int]]:
    """Load panels in turn; return each answer and the rows read for it."""
    found = {}
    for path in paths:
        before = await rows_read(database)
        _, answers = await load_panels(site, [path])
        found[path] = answers[path], await rows_read(database) - before
        print(f"{path}: {answers[path].error or 'ok'}, {answers[path].ms:,.0f} ms, {found[path][1]:,} rows", flush=True)
    return found


async def _warm(site: Website, paths: Sequence[str], looks: int) -> tuple[Sequence[float], dict[str, list[Answer]]]:
    """Load panels together several times; return the time of all in ms, and the answers by panel."""
    took, found = list[float](), {path: list[Answer]() for path in paths}
    for _ in range(looks):
        await asyncio.sleep(TRAFFIC_SHARED_S + EXPIRY_S)
        ms, answers = await load_panels(site, paths)
        took.append(ms)
        for path, answer in answers.items():
            found[path].append(answer)
    return took, found


def report(cost: OverviewCost) -> None:
    """Print the tables."""
    page = cost.page
    print(
        f"page: {page.html_bytes:,} bytes of HTML, {page.style_bytes:,} of styles, {page.script_bytes:,} of scripts, "
        f"{page.requests} requests; HTML after {page.html_ms:.0f} ms, first paint {page.first_paint_ms:.0f} ms, "
        f"scripts {page.scripts_ms:.0f} ms"
    )
    rows = [
        (
            _short(each.panel),
            *(f"{each.body_bytes:,}", f"{each.cold_ms:,.0f}", f"{each.cold_rows:,}", f"{each.again_rows:,}"),
            *(f"{value:,.0f}" for value in each.warm),
            "; ".join(each.errors)[:60],
        )
        for each in cost.panels
    ]
    rows.append(
        (
            "all together",
            *("", f"{cost.cold_together_ms:,.0f}", "", ""),
            *(f"{value:,.0f}" for value in cost.warm_together),
            "",
        )
    )
    show(["panel", "bytes", "cold ms", "rows read", "rows again", "warm p50 ms", "p99 ms", "errors"], rows)
    print(f"reading the counter adds {cost.counter_rows:,} rows to each")


def _short(panel: str) -> str:
    parts = urlsplit(panel)
    return f"{parts.path.rpartition('/')[2]} {parts.query}".strip()
