"""Commands that run parts of Tally."""

import asyncio
import time
from typing import TYPE_CHECKING, Annotated

import typer
from rich.live import Live
from rich.table import Table

from tally.cli.options import AsJson, DataDir, answer_json, load_settings, needs
from tally.cli.output import err, out, say

if TYPE_CHECKING:
    from readers.overview import Overview


@needs("embedded")
def up(
    workers: Annotated[int, typer.Option(help="Worker processes.", min=1, max=64)] = 2,
    port: Annotated[
        int, typer.Option(help="Port of the API; the next free one if it is taken.", min=1, max=65535)
    ] = 8080,
    rate: Annotated[float, typer.Option(help="Simulated events per second.", min=1, max=100_000)] = 200,
    seconds: Annotated[
        float | None, typer.Option("--for", help="Stop after this many seconds.", min=1, max=10_000_000)
    ] = None,
    demo: Annotated[bool, typer.Option("--demo/--no-demo", help="Import real data and simulate traffic.")] = True,
    data_dir: DataDir = None,
) -> None:
    """Run everything on this machine: Kafka, Valkey, ClickHouse, workers, API, and a demo on real data.

    Examples: tally up; tally up --for 30; tally up --no-demo --data-dir /srv/tally --workers 4
    """
    from tally.up import Options, run

    options = Options(workers=workers, port=port, rate=rate, seconds=seconds, demo=demo)
    settings = load_settings(data_dir)
    with _Screen() as screen:
        run(settings, options, say, screen.show)


class _Screen:
    """A live table on a terminal that can redraw, plain lines elsewhere."""

    def __init__(self) -> None:
        redraws = err.is_terminal and not err.is_dumb_terminal
        self._live = Live(console=err, auto_refresh=False, transient=True) if redraws else None
        self._last: tuple[float, int] | None = None

    def __enter__(self) -> "_Screen":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_error: object) -> None:
        if self._live:
            self._live.stop()

    def show(self, overview: "Overview", workers: int) -> None:
        """Show counts, lag and rate."""
        counts, now = overview.verdicts, time.monotonic()
        before_at, before = self._last or (now, counts.total)
        rate = (counts.total - before) / (now - before_at) if now > before_at else 0.0
        self._last = now, counts.total
        if self._live is None:
            say(f"{counts.as_text}, lag {overview.lag:,}, {rate:,.0f} events/s, {workers} workers")
            return
        table = Table(title="Tally", caption="Ctrl-C stops it")
        for name in ("stored", "duplicates", "rejected", "lag", "events/s", "workers"):
            table.add_column(name, justify="right")
        shown = (counts.stored, counts.duplicates, counts.rejected, overview.lag, round(rate), workers)
        table.add_row(*(f"{value:,}" for value in shown))
        self._live.update(table, refresh=True)


@needs("worker")
def init(as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """Create the topics and tables, or bring them to this version. Safe to repeat.

    Example: TALLY_KAFKA=127.0.0.1:9092 TALLY_CLICKHOUSE=http://127.0.0.1:8123 tally init
    """
    from runtime.kafka import create_topics
    from runtime.migrate import migrate
    from schemas.tables import LATEST_VERSION

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

    Examples: tally consume --workers 4 --name host-1; tally consume --until-caught-up --json
    """
    from tally.consume import consume as run

    settings = load_settings(data_dir, "kafka", "redis", "clickhouse")
    overview = run(settings, workers=workers, name=name, until_caught_up=until_caught_up)
    if as_json:
        answer_json({**overview.verdicts.model_dump(), "lag": overview.lag})
    else:
        out.print(f"topic {settings.topic}: {overview.verdicts.as_text}, lag {overview.lag:,}", highlight=False)


@needs("api")
def serve(
    role: Annotated[
        str, typer.Argument(help="Role of the processes: collector (writes), reader (reads), or all.")
    ] = "all",
    host: Annotated[str, typer.Option(help="Address to listen on; :: = all, IPv6 and IPv4.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8080,
    workers: Annotated[int, typer.Option(help="API processes that share the port.", min=1, max=64)] = 1,
    data_dir: DataDir = None,
) -> None:
    """Serve the HTTP API, or only the collector or the reader of it.

    Examples: tally serve; tally serve collector --port 8081 --workers 2; TALLY_API_KEY=... tally serve --host 0.0.0.0
    """
    from tally.serve import ROLES, serve_in_foreground

    if role not in ROLES:
        raise typer.BadParameter(f"{role!r} is not one of {', '.join(ROLES)}", param_hint="ROLE")
    serve_in_foreground(load_settings(data_dir), role, host, port, processes=workers)
