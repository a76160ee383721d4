"""Commands that run parts of Tally."""

import asyncio
import logging
import os
import signal
import socket
import time
from typing import Annotated

import typer
from rich.live import Live
from rich.table import Table

from consumers.supervised import supervised_workers
from readers.overview import Overview, read_overview
from runtime import clickhouse, log
from runtime.errors import TallyError
from runtime.kafka import create_topics
from runtime.migrate import migrate
from runtime.ports import is_free
from runtime.process.children import Children
from runtime.process.supervisor import Supervisor
from runtime.settings import Settings
from schemas.tables import LATEST_VERSION
from tally.cli.options import AsJson, DataDir, answer_json
from tally.cli.output import err, out, say

POLL_S = 0.1

logger = logging.getLogger("tally.supervisor")


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
    try:
        from tally import up as everything  # noqa: PLC0415  (the embedded parts are a group of their own)
    except ImportError as error:
        raise TallyError(
            f"`tally up` needs the embedded parts ({error.name}): pip install 'tally[embedded]'"
        ) from error
    settings = Settings.load(data_dir)
    options = everything.Options(workers=workers, port=port, rate=rate, seconds=seconds, demo=demo)
    with _Screen() as screen:
        everything.run(settings, options, say, screen.show)


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

    def show(self, overview: Overview, workers: int) -> None:
        """Show how things stand."""
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


def init(as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """Create the topics and tables, or bring them to this version. Safe to repeat.

    Example: TALLY_KAFKA=127.0.0.1:9092 TALLY_CLICKHOUSE=http://127.0.0.1:8123 tally init
    """
    settings = Settings.load(data_dir).need("kafka", "clickhouse")

    async def run() -> list[int]:
        await create_topics(settings)
        return await migrate(settings)

    applied = asyncio.run(run())
    if as_json:
        answer_json(
            {
                "topic": settings.topic,
                "database": settings.database,
                "schema": LATEST_VERSION,
                "applied": applied,
            }
        )
        return
    what = f"migrations applied: {', '.join(map(str, applied))}" if applied else "nothing to do"
    out.print(
        f"topic {settings.topic}, database {settings.database}, schema {LATEST_VERSION}: {what}",
        highlight=False,
    )


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
    """Consume: validate, deduplicate and store what is on the topic, until Ctrl-C or, if asked to, caught up.

    Examples: tally consume --workers 4 --name host-1; tally consume --until-caught-up --json
    """
    settings = Settings.load(data_dir).need("kafka", "redis", "clickhouse")
    log.configure(settings.log_format)
    children = Children()
    supervisor = supervised_workers(
        children,
        settings,
        workers=workers,
        # A drain leaves the group when it ends; a static member would hold its partitions until its session ends.
        instance_prefix=None if until_caught_up else name or f"{socket.gethostname()}-{os.getpid()}",
        log_dir=None,
        until_caught_up=until_caught_up,
        say=logger.warning,
    )
    try:
        _run_until_told(supervisor)
    finally:
        children.close()
    _print_counts(settings, as_json=as_json)


def _print_counts(settings: Settings, *, as_json: bool) -> None:
    async def ask() -> Overview:
        async with clickhouse.connect(settings) as database:
            return await read_overview(settings, database)

    overview = asyncio.run(ask())
    counts = overview.verdicts
    if as_json:
        answer_json({**counts.model_dump(), "lag": overview.lag})
    else:
        out.print(
            f"topic {settings.topic}: {counts.as_text}, lag {overview.lag:,}",
            highlight=False,
        )


def serve(
    role: Annotated[
        str, typer.Argument(help="Role of the processes: collector (writes), reader (reads), or all.")
    ] = "all",
    host: Annotated[str, typer.Option(help="Address to listen on; :: = all, IPv6 and IPv4.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8080,
    workers: Annotated[int, typer.Option(help="API processes that share the port.", min=1, max=64)] = 1,
    data_dir: DataDir = None,
) -> None:
    """Serve the HTTP API: all of it, or only the part that takes in or the part that answers.

    Examples: tally serve; tally serve collector --port 8081 --workers 2; TALLY_API_KEY=... tally serve --host 0.0.0.0
    """
    try:
        from tally import serve as api  # noqa: PLC0415  (FastAPI is a group of its own)
    except ImportError as error:
        raise TallyError(f"`tally serve` needs the API's parts ({error.name}): pip install 'tally[api]'") from error
    if role not in api.ROLES:
        raise typer.BadParameter(f"{role!r} is not one of {', '.join(api.ROLES)}", param_hint="ROLE")
    settings = Settings.load(data_dir)
    api.check(settings, role)
    if not is_free(port, host):  # its processes share the port: so would another program's, and take half its requests
        raise TallyError(f"port {port} of {host} is taken: choose another one with --port")
    log.configure(settings.log_format)
    children = Children()
    try:
        _run_until_told(
            api.supervised(children, settings, role, host, port, processes=workers, log_dir=None, say=logger.warning)
        )
    finally:
        children.close()


def _run_until_told(supervisor: Supervisor) -> None:
    stopping: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _frame: stopping.append(received))
    try:
        supervisor.start()
        while not stopping and supervisor.poll():
            time.sleep(POLL_S)
    finally:
        supervisor.stop()
