"""`make bench-reports`: each report over a day, a week and a year of generated events.

`SELECT count() FROM interactions FINAL` over the same range is the baseline. It alternates with each report, because
the machine's speed changes from one second to the next: the ratio means more than milliseconds. The table is Markdown.
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from benchmarks import command, report_rows
from benchmarks.command import Percentiles, percentiles_of
from benchmarks.meter import reset_peak, usage
from deploy.embedded.stack import Stack
from readers.report_statement import ReportError, ReportRequest
from readers.reports import run_report
from runtime.clickhouse import ClickHouse
from runtime.settings import Settings
from schemas.analytics.base import RANGE
from schemas.analytics.catalogue import REPORTS
from schemas.tables import INTERACTIONS

REPORT_TIMEOUT_MS = 600_000
"""Longest report: a limit of the benchmark, so that a slow machine still gets a figure."""
MERGES_S = 120.0
"""Longest wait for merges after the rows are generated."""
POLL_S = 0.2
MIB = 1024 * 1024

_COUNT = f"SELECT count() FROM {INTERACTIONS} FINAL WHERE {RANGE}"
_SESSION = f"SELECT any(session_id) FROM {INTERACTIONS} WHERE {RANGE}"


class MeasuredRange(NamedTuple):
    """Range of event time, and the share of `--rounds` that is run over it."""

    name: str
    since: datetime
    days: int
    share: float

    @property
    def bounds(self) -> Mapping[str, str]:
        """Bound parameters of a statement over this range."""
        since, until = (
            moment.strftime("%Y-%m-%d %H:%M:%S") for moment in (self.since, self.since + timedelta(days=self.days))
        )
        return {"namespace": report_rows.NAMESPACE, "since": since, "until": until}


_MIDDLE = report_rows.BEGIN + timedelta(days=180)
RANGES = (
    MeasuredRange("day", _MIDDLE, 1, 1.0),
    MeasuredRange("week", _MIDDLE, 7, 1.0),
    MeasuredRange("year", report_rows.BEGIN, 365, 0.15),
)


class ReportCost(NamedTuple):
    """Cost of one report over one range."""

    report: str
    range: str
    runs: int
    ms: Percentiles
    ratio: float
    """Median of a run's time / the time of the count of the range's events before it."""
    cpu_ms: float
    """CPU time of ClickHouse for each run, background merges included."""
    rows_read: int
    """Rows read from tables, of each mark and for each time that the report reads it."""
    bytes_read: int
    peak_bytes: int
    """Peak memory of the ClickHouse process, its caches included."""
    error: str
    """Reason why the report could not be made; empty if it was."""


def parameters_of(name: str, session: str) -> Mapping[str, str]:
    """Return the parameters that a report requires."""
    a, b, *_ = report_rows.RETRIEVERS
    return {"compare": {"a": a, "b": b}, "journey": {"session": session}}.get(name, {})


async def work_of(
    database: ClickHouse, name: str, bounds: Mapping[str, str], own: Mapping[str, str]
) -> tuple[int, int]:
    """Return the rows and uncompressed bytes that a view reads. A result as JSON ends with these statistics."""
    report = REPORTS[name]
    defaults = {key: value for key, value in report.defaults().items() if value is not None and key != "of"}
    given = {**bounds, **defaults, **own}
    kinds = {parameter.name: parameter.kind for parameter in report.parameters}
    arguments = ", ".join(f"{key} = {{{key}:{kinds.get(key, 'String')}}}" for key in given)
    # Sorting reads everything, whatever the limit.
    columns = ", ".join(report.all_columns())
    sql = f"SELECT {columns} FROM {report.view}({arguments}) ORDER BY {report.order} LIMIT 1 FORMAT JSON"
    async with database.stream(sql, given, settings={}, timeout_s=REPORT_TIMEOUT_MS / 1000) as pieces:
        found = json.loads(b"".join([piece async for piece in pieces]))["statistics"]
    return int(found["rows_read"]), int(found["bytes_read"])


class Bench:
    """Measurement of reports on one database."""

    def __init__(self, stack: Stack, settings: Settings, database: ClickHouse) -> None:
        self._pid = stack.pid("clickhouse")
        self._settings = settings
        self._database = database

    async def measure(self, name: str, over: MeasuredRange, runs: int) -> ReportCost:
        """Measure one report over one range, each run after a count of the range's events."""
        ((session,),) = await self._database.rows(_SESSION, over.bounds)
        parameters = parameters_of(name, session or "")
        until = over.since + timedelta(days=over.days)
        request = ReportRequest(name, report_rows.NAMESPACE, over.since, until, parameters)
        took: list[tuple[float, float]] = []
        cpu_s = 0.0
        reset_peak(self._pid)
        try:
            await self._report_ms(request)  # a first run reads from disk
            for _ in range(runs):
                count_ms = await self._count_ms(over)
                before = usage(self._pid).cpu_s
                took.append((count_ms, await self._report_ms(request)))
                cpu_s += usage(self._pid).cpu_s - before
        except ReportError as error:
            return ReportCost(name, over.name, 0, Percentiles(0, 0), 0, 0, 0, 0, 0, error.message)
        peak_bytes = usage(self._pid).peak_bytes
        work = await work_of(self._database, name, over.bounds, parameters)
        ms = percentiles_of(report_ms for _, report_ms in took)
        ratio = statistics.median(report_ms / count_ms for count_ms, report_ms in took)
        return ReportCost(name, over.name, runs, ms, ratio, cpu_s / runs * 1000, *work, peak_bytes, "")

    async def _report_ms(self, request: ReportRequest) -> float:
        begun = time.perf_counter()
        await run_report(self._settings, self._database, request)
        return (time.perf_counter() - begun) * 1000

    async def _count_ms(self, over: MeasuredRange) -> float:
        begun = time.perf_counter()
        await self._database.rows(_COUNT, over.bounds)
        return (time.perf_counter() - begun) * 1000


async def wait_for_merges(database: ClickHouse, longest_s: float = MERGES_S) -> int:
    """Wait until no merge runs, at most `longest_s`; returns the number of parts."""
    deadline = time.monotonic() + longest_s
    while (await database.rows("SELECT count() FROM system.merges"))[0][0] and time.monotonic() < deadline:
        await asyncio.sleep(POLL_S)
    parts = "SELECT count() FROM system.parts WHERE active AND database = currentDatabase() AND table = {table:String}"
    return int((await database.rows(parts, {"table": INTERACTIONS}))[0][0])


async def run(options: argparse.Namespace) -> list[ReportCost]:
    """Generate the rows, and measure each report over each range."""
    found: list[ReportCost] = []
    with command.temporary_stack(options.folder) as stack:
        limits = {"report_timeout_ms": REPORT_TIMEOUT_MS, "query_timeout_ms": 2 * REPORT_TIMEOUT_MS}
        settings = command.named(stack, "reports", **limits)
        async with command.installed(settings) as database:
            begun = time.monotonic()
            async for rows in report_rows.fill(database, options.rows):
                _progress(f"{rows:,} rows after {time.monotonic() - begun:.0f} s")
            _progress(f"{await wait_for_merges(database)} parts after {time.monotonic() - begun:.0f} s")
            bench = Bench(stack, settings, database)
            for over in RANGES:
                for name in options.only or REPORTS:
                    found.append(await bench.measure(name, over, max(1, round(options.rounds * over.share))))
                    _progress(f"{over.name}: {name}: {_said(found[-1])}")
    return found


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _said(cost: ReportCost) -> str:
    return cost.error or f"p50 {cost.ms.p50:,.0f} ms, {cost.ratio:.1f} times the count"


def table(found: Sequence[ReportCost]) -> str:
    """Return the costs as a Markdown table. A report that could not be made has its error instead."""
    columns = ["report", "range", "runs", "p50 ms", "p99 ms", "of count", "CPU ms", "rows read", "MiB read", "peak MiB"]
    lines = [columns, ["---"] * len(columns)]
    for cost in found:
        if cost.error:
            lines.append([cost.report, cost.range, "0", cost.error, *[""] * (len(columns) - 4)])
            continue
        times = (f"{cost.ms.p50:,.0f}", f"{cost.ms.p99:,.0f}", f"{cost.ratio:,.1f}", f"{cost.cpu_ms:,.0f}")
        work = (f"{cost.rows_read:,}", f"{cost.bytes_read / MIB:,.1f}", f"{cost.peak_bytes / MIB:,.0f}")
        lines.append([cost.report, cost.range, str(cost.runs), *times, *work])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def as_json(found: Sequence[ReportCost]) -> list[dict[str, Any]]:
    """Return the costs as objects."""
    return [{**cost._asdict(), "ms": cost.ms._asdict()} for cost in found]


def main() -> None:
    """Run the benchmark."""
    parser = command.parser_of("bench-reports", __doc__, "ARGS='--rows 1000000 --only overview queries'")
    parser.add_argument("--rows", type=command.at_least(1_000, int), default=10_000_000, help="events of the year")
    parser.add_argument(
        "--rounds",
        type=command.at_least(1, int),
        default=20,
        help="runs over a day and a week; over the year a seventh",
    )
    parser.add_argument("--only", nargs="+", choices=REPORTS, metavar="NAME", help=f"of {', '.join(REPORTS)}")
    parser.add_argument("--json", action="store_true", help="print the results as JSON instead of a table")
    options = parser.parse_args()
    found = asyncio.run(run(options))
    print(json.dumps(as_json(found), indent=2) if options.json else table(found))
    command.save(options.folder, "reports", as_json(found))
    with command.plot(options.folder, "reports", "Reports, p50") as axes:
        for over in RANGES:
            made = [cost for cost in found if cost.range == over.name and not cost.error]
            axes.plot([cost.report for cost in made], [cost.ms.p50 for cost in made], "o", label=over.name)
        axes.set(ylabel="ms", yscale="log")
        axes.tick_params(axis="x", rotation=60)
        axes.legend()


if __name__ == "__main__":
    main()
