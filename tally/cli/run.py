"""Commands that plan, run and expand an installation."""

import asyncio
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.live import Live
from rich.table import Table

from tally.capacity import EVENT_BYTES, Load, need_of
from tally.cli.options import AsJson, DataDir, answer_json, load_settings, needs
from tally.cli.output import counted, err, out, say, table

if TYPE_CHECKING:
    from readers.overview import Overview


@needs("embedded")
def up(
    workers: Annotated[int, typer.Option(help="Worker processes.", min=1, max=64)] = 2,
    port: Annotated[
        int | None,
        typer.Option(
            help="Port of the API; the next free one if it is taken. Default: that of the last start, at first 8080.",
            min=1,
            max=65535,
        ),
    ] = None,
    rate: Annotated[
        float, typer.Option(help="Mean of the simulated events per second, in real time.", min=0.1, max=5_000)
    ] = 5,
    seconds: Annotated[
        float | None, typer.Option("--for", help="Stop after this many seconds.", min=1, max=10_000_000)
    ] = None,
    demo: Annotated[bool, typer.Option("--demo/--no-demo", help="Import real data and simulate traffic.")] = True,
    backfill_days: Annotated[
        int, typer.Option(help="Days of searches that the demo simulates at its first start. 0: none.", min=0, max=366)
    ] = 7,
    data_dir: DataDir = None,
) -> None:
    """Run everything on this machine: Kafka, Valkey, ClickHouse, workers, API, and a demo on real data.

    Examples:
        tally up
        tally up --for 30
        tally up --no-demo --data-dir /srv/tally --workers 4
    """
    from tally.up import Options, run

    options = Options(workers=workers, port=port, rate=rate, seconds=seconds, demo=demo, backfill_days=backfill_days)
    settings = load_settings(data_dir)
    redraws = err.is_terminal and not err.is_dumb_terminal
    with Live(console=err, auto_refresh=False, transient=True) if redraws else nullcontext() as live:
        run(settings, options, say, _Screen(live).show)


class _Screen:
    """Counts as a live table on a terminal that can redraw, as plain lines elsewhere."""

    def __init__(self, live: Live | None) -> None:
        self._live = live
        self._last: tuple[float, int] | None = None

    def show(self, overview: "Overview", workers: int) -> None:
        """Show counts, lag and rate."""
        counts, now = overview.verdicts, time.monotonic()
        before_at, before = self._last or (now, counts.total)
        rate = (counts.total - before) / (now - before_at) if now > before_at else 0.0
        self._last = now, counts.total
        if self._live is None:
            say(f"{counts.as_text}, lag {overview.lag:,}, {rate:,.0f} events/s, {counted(workers, 'worker')}")
            return
        counts_now = Table(title="Tally", caption="Ctrl-C stops it")
        for name in ("stored", "duplicates", "rejected", "lag", "events/s", "workers"):
            counts_now.add_column(name, justify="right")
        shown = (counts.stored, counts.duplicates, counts.rejected, overview.lag, round(rate), workers)
        counts_now.add_row(*(f"{value:,}" for value in shown))
        self._live.update(counts_now, refresh=True)


@needs("worker")
def init(as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """Create the topics and tables, or bring them to this version. Safe to repeat.

    Examples:
        TALLY_KAFKA=127.0.0.1:9092 TALLY_CLICKHOUSE=http://127.0.0.1:8123 tally init
    """
    from runtime.kafka import create_topics
    from runtime.migrate import migrate
    from schemas.migrations import LATEST_VERSION

    settings = load_settings(data_dir, "kafka", "clickhouse")
    asyncio.run(create_topics(settings))
    applied = asyncio.run(migrate(settings))
    if as_json:
        places = {"topic": settings.topic, "database": settings.database}
        answer_json({**places, "schema": LATEST_VERSION, "applied": applied})
        return
    what = f"migrations applied: {', '.join(map(str, applied))}" if applied else "nothing to do"
    out.print(f"topic {settings.topic}, database {settings.database}, schema {LATEST_VERSION}: {what}", highlight=False)


@needs("worker")
def consume(
    workers: Annotated[int, typer.Option(help="Worker processes.", min=1, max=64)] = 1,
    until_caught_up: Annotated[
        bool, typer.Option("--until-caught-up", help="Join the group, drain the topic, then stop.")
    ] = False,
    name: Annotated[
        str | None,
        typer.Option(
            help="Static member name prefix (group.instance.id): a restart under the same name keeps its partitions."
        ),
    ] = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Consume the topic: validate, deduplicate and store events, until Ctrl-C or --until-caught-up ends it.

    Examples:
        tally consume --workers 4 --name host-1
        tally consume --until-caught-up --json
    """
    from tally.foreground import consume as run

    settings = load_settings(data_dir, "kafka", "redis", "clickhouse")
    overview = run(settings, workers=workers, name=name, until_caught_up=until_caught_up)
    if as_json:
        answer_json({**overview.verdicts.model_dump(), "lag": overview.lag})
    else:
        out.print(f"topic {settings.topic}: {overview.verdicts.as_text}, lag {overview.lag:,}", highlight=False)


@needs("api")
def serve(
    role: Annotated[
        Literal["collector", "reader", "all", "console"],
        typer.Argument(help="Role of the processes: collector (writes), reader (reads), all of both, or the console."),
    ] = "all",
    host: Annotated[str, typer.Option(help="Address to listen on; :: = all, IPv6 and IPv4.")] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(help="Port: 8080 by default, 8090 for the console.", min=1, max=65535)
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(help="API processes that share the port: 1 by default. Not for the console.", min=1, max=64),
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Serve the HTTP API, only the collector or the reader of it, or the web console.

    The console needs the address of an API in TALLY_CONSOLE_API, or the stack of the data directory.

    Examples:
        tally serve
        tally serve collector --port 8081 --workers 2
        TALLY_API_KEY=... tally serve --host 0.0.0.0
        TALLY_CONSOLE_API=http://127.0.0.1:8080 tally serve console
    """
    if role == "console":
        from tally.serve_console import serve_console

        if workers is not None:
            raise typer.BadParameter("is for the API: start another console for more", param_hint="--workers")
        serve_console(data_dir, host, port)
        return
    from tally.serve import serve_in_foreground

    serve_in_foreground(load_settings(data_dir), role, host, port or 8080, processes=workers or 1)


def capacity(
    events_per_s: Annotated[float, typer.Argument(help="Average events per second.", min=0.01, max=100_000_000)],
    peak: Annotated[float, typer.Option(help="Peak rate as a multiple of the average.", min=1, max=100)] = 3,
    days: Annotated[int, typer.Option(help="Days that stored events are kept.", min=1, max=36_500)] = 365,
    event_bytes: Annotated[
        int, typer.Option(help="Average size of an event as JSON, in bytes.", min=50, max=2_000_000)
    ] = EVENT_BYTES,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Estimate the partitions, workers, memory and disk of a load, from the measured cost of an event.

    The window (TALLY_DEDUP_WINDOW_MS) and the topic's retention (TALLY_TOPIC_RETENTION_MS) are those of the settings.

    Examples:
        tally capacity 10000
        tally capacity 200 --days 3650 --json
    """
    settings = load_settings(data_dir)
    need = need_of(Load(events_per_s, peak=peak, days=days, event_bytes=event_bytes), settings)
    if as_json:
        answer_json(need._asdict())
        return
    title = f"{events_per_s:,.0f} events/s, {events_per_s * peak:,.0f} at the peak, {days} days"
    needed = table("part", "needs", title=title, right=True)
    for part, amount in (
        ("topic", f"{need.partitions} partitions"),
        ("workers", f"{need.workers}, {need.worker_memory_gib} GiB each"),
        ("Kafka, 3 copies", f"{need.kafka_cores} cores, {need.topic_tib} TiB"),
        ("Redis", f"{need.redis_cores} cores, {need.redis_gib} GiB"),
        ("ClickHouse, 2 copies", f"{need.clickhouse_cores} cores, {need.table_tib} TiB"),
        ("rows", f"{need.rows:,.0f}"),
    ):
        needed.add_row(part, amount)
    out.print(needed)


topic = typer.Typer(help="Change a live topic.", no_args_is_help=True)


@topic.callback()
def _group() -> None:
    """Keep `expand` a subcommand: typer promotes the only command of a group."""


@topic.command()
@needs("worker")
def expand(
    partitions: Annotated[int, typer.Option(help="New partition count; must be a multiple of the current one.", min=2)],
    drain_timeout: Annotated[
        float, typer.Option(help="Seconds to drain before giving up and releasing producers.", min=1, max=86_400)
    ] = 300,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Add partitions to the topic. Duplicates of earlier events are still found.

    Producers are held meanwhile: the API answers 503 and `emit` raises Unavailable until the workers have drained the
    topic, and for TALLY_DELIVERY_TIMEOUT_MS and 5 s more. After an interruption or a failure, run it again.

    Examples:
        tally topic expand --partitions 16
    """
    from tally.expand import Expand

    settings = load_settings(data_dir, "kafka", "clickhouse")
    before = asyncio.run(Expand(settings, partitions, drain_timeout_s=drain_timeout, say=say).run())
    if as_json:
        answer_json({"topic": settings.topic, "partitions_before": before, "partitions": partitions})
    else:
        out.print(f"topic {settings.topic}: {before} partitions before, {partitions} now", highlight=False)
