"""API processes: `python -m tally.serve all --port 8080` is one, with its settings in the environment."""

import argparse
import asyncio
import gc
import logging
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Literal, get_args

from fastapi import FastAPI
from prometheus_client import generate_latest

from learning.module import LearningModule
from producers.collector.module import CollectorModule
from readers.key_routes import KeyModule
from readers.module import ReaderModule
from readers.refusals import RefusalModule
from runtime import log
from runtime.errors import TallyError, Unavailable
from runtime.http.hosts import allowed_names
from runtime.http.server import ApiServer
from runtime.http.service import ApiModule, create_app
from runtime.metrics_server import serve_metrics
from runtime.ports import host_and_port, is_free, listening_sockets
from runtime.process.children import Children, module_command
from runtime.process.supervisor import Supervisor
from runtime.settings import Settings
from runtime.shared_metrics import SharedMetrics
from runtime.tasks import running
from tally.answering import configured_stores, faults_of
from tally.dead_letters.module import DeadLettersModule
from tally.foreground import logger as supervisor_log
from tally.foreground import run_until_stopped

Role = Literal["collector", "reader", "all"]
HOST = "127.0.0.1"

NEW_OBJECTS_PER_COLLECTION = 50_000
"""New objects, about 10 MiB, after which garbage is collected. By default (700), requests in flight are visited again
and again: a sixth of the time of a create with 512 connections."""

logger = logging.getLogger("tally.api")


def app_of(settings: Settings, role: Role, host: str = "", metrics: Callable[[], bytes] = generate_latest) -> FastAPI:
    """Create the application of a role at `host`. With both parts a POST can wait for its outcome."""
    reader = ReaderModule()
    readers: list[ApiModule] = [reader, LearningModule(), KeyModule(), RefusalModule(), DeadLettersModule()]
    parts: dict[Role, list[ApiModule]] = {
        "collector": [CollectorModule()],
        "reader": readers,
        "all": [*readers, CollectorModule(reader.outcome)],
    }
    return create_app(settings, parts[role], hosts=allowed_names(settings.http_hosts, host), metrics=metrics)


def check(settings: Settings, role: Role) -> None:
    """Raise SettingsError when an address that the role needs is not set."""
    settings.need("clickhouse", *(("kafka",) if role != "reader" else ()))


async def refuse_wrong(settings: Settings) -> None:
    """Raise Fatal for faults that waiting cannot repair, such as a wrong password. An unreachable store is not one."""
    # The default database: that of the settings may not have been created yet.
    faults = await faults_of(settings.model_copy(update={"database": "default"}), *configured_stores(settings))
    for fault in faults.values():
        if not isinstance(fault, Unavailable):
            raise fault


def serve_in_foreground(settings: Settings, role: Role, host: str, port: int, *, processes: int) -> None:
    """Run API processes that share a port until SIGINT or SIGTERM. Raises TallyError when the port is taken."""
    check(settings, role)
    if not is_free(port, host):  # its processes share the port: so would another program's, and take half its requests
        raise TallyError(f"port {port} of {host} is taken: choose another one with --port")
    command = module_command("tally.serve", role, "--host", host, "--port", str(port))
    commands = {"api" if processes == 1 else f"api-{number}": [*command] for number in range(processes)}
    if settings.metrics_port:
        for number, each in enumerate(commands.values()):
            each += ["--metrics-port", str(settings.metrics_port + number)]
    with tempfile.TemporaryDirectory(prefix="tally-metrics-") as folder:
        for name, each in commands.items() if processes > 1 else ():
            each += ["--shared-metrics", str(Path(folder, f"{name}.json"))]
        run_until_stopped(settings, partial(_supervisor_of, settings, commands))


def _supervisor_of(settings: Settings, commands: Mapping[str, Sequence[str]], children: Children) -> Supervisor:
    return Supervisor(
        children,
        commands,
        environment=settings.as_environment(),
        stop_timeout_s=settings.stop_timeout_ms / 1000 + 5,
        log_dir=None,
        say=supervisor_log.warning,
    )


async def serve(settings: Settings, role: Role, host: str, port: int, shared_metrics: Path | None = None) -> None:
    """Serve until SIGTERM or SIGINT; requests in flight have `TALLY_STOP_TIMEOUT_MS` to end.

    `shared_metrics` is the file of this process's samples, beside those of the processes that share its port.
    """
    check(settings, role)
    await refuse_wrong(settings)
    if not settings.api_key.get_secret_value():
        logger.info("TALLY_API_KEY is not set: only keys made by `tally keys create` are accepted")
    shared = SharedMetrics(shared_metrics) if shared_metrics else None
    server = ApiServer(app_of(settings, role, host, shared.text if shared else generate_latest), settings)
    where = host_and_port(host, port)
    with ExitStack() as stack:
        try:
            sockets = stack.enter_context(listening_sockets(host, port, shared=True))
        except OSError as error:
            raise TallyError(f"cannot listen on {where}: {error}; choose with --host and --port") from None
        stack.enter_context(serve_metrics(settings, why_not_ready=lambda: "" if server.started else "starting"))
        async with _sharing(shared):
            await server.serve_until_signal(sockets)
    if not server.started:
        raise TallyError(f"the API could not start on {where}; its log above says why")


@asynccontextmanager
async def _sharing(shared: SharedMetrics | None) -> AsyncIterator[None]:
    """Write the shared metrics until the block ends, and at its end."""
    if shared is None:
        yield
        return
    try:
        async with running(shared.write_periodically(), "writing shared metrics"):
            yield
    finally:
        shared.write(has_ended=True)


def main() -> None:
    """Run one API process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=get_args(Role))
    parser.add_argument("--host", default=HOST)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument(
        "--metrics-port", type=int, help="port of this process's metrics, instead of TALLY_METRICS_PORT"
    )
    parser.add_argument("--shared-metrics", type=Path, help="file of this process's samples, beside those of others")
    options = parser.parse_args()
    gc.set_threshold(NEW_OBJECTS_PER_COLLECTION)
    log.configure()
    try:
        settings = Settings.load(**({} if options.metrics_port is None else {"metrics_port": options.metrics_port}))
        log.configure(settings.log_format, max_lines=settings.http_log_repeats)
        asyncio.run(serve(settings, options.role, options.host, options.port, options.shared_metrics))
    except TallyError as error:
        logger.error("%s", error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
