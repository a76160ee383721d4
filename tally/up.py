"""Tally on one machine: the embedded stack, workers, the API and, on request, a demo."""

import asyncio
import contextlib
import shlex
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FrameType

from consumers.supervised import supervised_workers
from deploy.embedded.services import ANALYST
from deploy.embedded.stack import Stack
from producers.simulation.live import DEFAULT_LIVE_RATE
from readers.overview import Overview, VerdictCounts, count_verdicts, read_overview
from runtime import clickhouse
from runtime.clickhouse import ClickHouse
from runtime.errors import TallyError
from runtime.kafka import create_topics
from runtime.migrate import migrate
from runtime.process.supervisor import Supervisor
from runtime.settings import DEFAULT_DATA_DIR, Settings, without_password
from runtime.stack_file import StackFile
from runtime.tasks import running
from tally.demo import BACKFILL_DAYS, Demo, with_demo_namespace
from tally.invoked import NAME, activation, invoked
from tally.web_process import API_PORT, CONSOLE_PORT, WebProcess, choose_address, start_api, start_console

POLL_S = 0.2
REPORT_EVERY_S = 5.0
FAILED_STOP_S = 3.0
SHARED_SETTINGS = (
    "namespace",
    "topic",
    "dead_letter_topic",
    "max_record_bytes",
    "group",
    "database",
    "key_prefix",
    "dedup_window_ms",
)


@dataclass(frozen=True)
class Options:
    """Options of `tally up`."""

    workers: int = 2
    port: int | None = None
    """Port of the API; None: that of the last start, at first API_PORT."""
    rate: float = DEFAULT_LIVE_RATE
    seconds: float | None = None
    demo: bool = True
    backfill_days: int = BACKFILL_DAYS
    """Days of simulated searches before the first start of the demo; 0: none."""


ReportLine = Callable[[str], None]
Show = Callable[[Overview, int], None]


def run(settings: Settings, options: Options, say: ReportLine, show: Show) -> None:
    """Start everything, serve until SIGINT, SIGTERM or `options.seconds`, and leave no process running.

    `say` takes lines for the terminal, `show` the counts and the number of workers every few seconds. Raises
    KeyboardInterrupt when it was SIGINT, once nothing runs any more.
    """
    begun = time.monotonic()
    with _signals_interrupt(), Stack(settings, say) as stack:
        up = LocalDeployment(stack, with_demo_namespace(stack.settings()), options, say, show)
        try:
            asyncio.run(up.run(begun))
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):  # the shutdown must not be interrupted
                signal.signal(number, signal.SIG_IGN)
    folder = shlex.quote(str(settings.data_dir))
    say(f"stopped. The data stays in {folder} for the next start; rm -r {folder} deletes it")
    if up.interrupted:
        raise KeyboardInterrupt


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGTERM and SIGINT, until the event loop has handlers of its own.

    SIGINT is set as well: a shell starts background jobs with it ignored.
    """

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class LocalDeployment:
    """Stack with workers and the API."""

    def __init__(self, stack: Stack, settings: Settings, options: Options, say: ReportLine, show: Show) -> None:
        self._stack = stack
        self._settings = settings
        self._options = options
        self._say = say
        self._show = show
        self._stop = asyncio.Event()
        self.interrupted = False
        """True after Ctrl-C."""
        self._failure: TallyError | None = None
        self._before: VerdictCounts
        self._written: StackFile | None = None
        self._api: WebProcess
        self._console: WebProcess
        self._workers: Supervisor

    async def run(self, begun: float) -> None:
        """Serve until stopped. Raises the failure of a process that ended by itself."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        loop.add_signal_handler(signal.SIGINT, self._interrupt)
        self._stack.note("starting")  # the stores run, workers and API do not yet
        await create_topics(self._settings)
        await migrate(self._settings)
        async with clickhouse.connect(self._settings) as database:
            self._before = await count_verdicts(self._settings, database)
        self._start_workers()
        try:
            await self._start_web()
            self._write_stack_file()
            self._stack.note("running")
            self._say(f"up after {time.monotonic() - begun:.1f} s, Ctrl-C stops it")
            for line in self._directions():
                self._say(line)
            watching = asyncio.create_task(self._watch())
            try:
                async with clickhouse.connect(self._settings) as database:
                    await self._serve(database)
            finally:
                self._stop.set()
                await watching
        finally:
            await self._leave()
        if self._failure:
            raise self._failure

    def _interrupt(self) -> None:
        self.interrupted = True
        self._stop.set()

    def _directions(self) -> Iterator[str]:
        """Yield the lines that say where everything is, and the next command for another terminal."""
        endpoints, option, activate = self._stack.stack_file().endpoints, self._data_dir_option(), activation()
        yield f"  console     {self._console.url} (sign in with the API key: {invoked()} status --show-secrets{option})"
        yield f"  API         {self._api.url} (documentation: {self._api.url}/docs)"
        yield f"  ClickHouse  {without_password(endpoints.analyst)} (HTTP; user {ANALYST} may only read)"
        yield f"  Kafka       {endpoints.kafka}"
        yield f"  Redis       {without_password(endpoints.redis)}"
        yield f"  data        {self._settings.data_dir.absolute()}"
        name = NAME if activate else invoked()
        yield f"next, in a second terminal: {activate and f'{activate} && '}{name} connect{option}"
        yield f"passwords and the API key: {invoked()} status --show-secrets{option}"

    def _data_dir_option(self) -> str:
        """The option with which other commands find this stack from any directory."""
        folder = self._settings.data_dir
        return "" if folder == DEFAULT_DATA_DIR else f" --data-dir {shlex.quote(str(folder))}"

    def _start_workers(self) -> None:
        self._workers = supervised_workers(
            self._stack.children,
            self._settings,
            workers=self._options.workers,
            instance_prefix="up",
            log_dir=self._stack.log_dir,
            say=self._say,
        )
        self._workers.start()

    async def _start_web(self) -> None:
        """Start the API, which leads browsers to the console, and the console."""
        with ExitStack() as reserving:
            api_url = choose_address(self._stack, "api", self._options.port, API_PORT, reserving)
            console_url = choose_address(self._stack, "console", None, CONSOLE_PORT, reserving)
            leading = self._settings.model_copy(update={"console_url": console_url})
            self._api = await start_api(self._stack, leading, api_url)
            self._console = await start_console(self._stack, self._settings, console_url, api_url)

    def _write_stack_file(self) -> None:
        """Write addresses and process ids for other commands, again after each change."""
        file = self._stack.stack_file()
        file.endpoints.api, file.pids.api = self._api.url, self._api.child.pid
        file.endpoints.console, file.pids.console = self._console.url, self._console.child.pid
        file.pids.workers = self._workers.pids
        file.key, file.workers = self._settings.api_key.get_secret_value(), self._options.workers
        file.settings = {name: str(getattr(self._settings, name)) for name in SHARED_SETTINGS}
        if file != self._written:
            file.write(self._settings.data_dir)
            self._written = file

    async def _watch(self) -> None:
        """Check every process until stopped. A service that dies ends everything, with the last lines of its log."""
        try:
            while not self._stop.is_set():
                self._stack.check()
                self._api.check()
                self._console.check()
                self._workers.poll()
                self._write_stack_file()
                await asyncio.sleep(POLL_S)
        except TallyError as failure:
            self._failure = failure
            self._say(f"{str(failure).splitlines()[0]}: stopping everything")
            self._stop.set()

    async def _serve(self, database: ClickHouse) -> None:
        async with running(self._report(database), "reporting"):
            if self._options.demo:
                rate, seconds = self._options.rate, self._options.seconds
                demo = Demo(self._settings, database, self._stop, self._say, self._options.backfill_days)
                await demo.run(self._api.url, rate, seconds)
            elif self._options.seconds is not None:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), self._options.seconds)
            else:
                await self._stop.wait()

    async def _print_totals(self) -> None:
        async with clickhouse.connect(self._settings) as database:
            now = await read_overview(self._settings, database)
        names = VerdictCounts.model_fields
        # A deletion in this run takes stored events of earlier ones away.
        more = {name: max(0, getattr(now.verdicts, name) - getattr(self._before, name)) for name in names}
        self._say(f"this run: {VerdictCounts(**more).as_text}, lag {now.lag:,}")

    async def _report(self, database: ClickHouse) -> None:
        while True:
            await asyncio.sleep(REPORT_EVERY_S)
            with contextlib.suppress(TallyError):  # the next read may succeed; `_watch` finds dead processes
                overview = await read_overview(self._settings, database)
                self._show(overview, len(self._workers.pids))

    async def _leave(self) -> None:
        """Stop the workers first: they can still store and commit their batches. Then print the totals of this run."""
        self._say("stopping")
        self._stack.note("stopping")
        # Without one of the stores they cannot, and the next start reads those records again.
        self._workers.stop(timeout_s=FAILED_STOP_S if self._failure else None)
        if not self._failure:
            try:
                await asyncio.wait_for(self._print_totals(), self._settings.connect_timeout_ms / 1000)
            except (TallyError, TimeoutError):
                self._say("the totals of this run cannot be read: a store does not answer")
        for name in ("_console", "_api"):
            if web := getattr(self, name, None):
                self._stack.children.stop(web.child, self._settings.stop_timeout_ms / 1000)
        StackFile.remove(self._settings.data_dir)
