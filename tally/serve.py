"""One API process: `python -m tally.serve all --port 8080`. Its settings come through the environment."""

import argparse
import asyncio
import logging
import socket
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path
from typing import Literal, get_args

import uvicorn
from fastapi import FastAPI

from producers.collector.part import CollectorPart
from readers.part import ReaderPart
from runtime import kafka, log
from runtime.children import Children
from runtime.clickhouse import connect
from runtime.errors import SettingsError, TallyError, Unavailable
from runtime.http.server import OrderlyServer
from runtime.http.service import Part, create_app
from runtime.metrics_server import metrics_served
from runtime.redis import connect_redis
from runtime.settings import DEFAULT_KEY, Settings
from runtime.supervisor import Supervisor

Role = Literal["collector", "reader", "all"]
ROLES: tuple[Role, ...] = get_args(Role)
HOST = "127.0.0.1"
_BACKLOG = 1_024

logger = logging.getLogger("tally.api")


def app_of(settings: Settings, role: Role) -> FastAPI:
    """The application of a role. Where both parts are, a POST can wait for its outcome."""
    reader = ReaderPart()
    parts: dict[Role, list[Part]] = {
        "collector": [CollectorPart()],
        "reader": [reader],
        "all": [reader, CollectorPart(reader.outcome)],
    }
    return create_app(settings, parts[role])


def check(settings: Settings, role: Role, host: str) -> None:
    """Raise SettingsError for what would only fail later, or be unsafe."""
    settings.need("clickhouse", *(("kafka",) if role != "reader" else ()))
    if settings.api_key.get_secret_value() == DEFAULT_KEY and host not in (HOST, "localhost", "::1"):
        raise SettingsError(
            f"TALLY_API_KEY is still {DEFAULT_KEY}, which everybody knows, and {host} can be reached by others: set it"
        )


async def refuse_wrong(settings: Settings) -> None:
    """Raise what waiting cannot mend, such as a wrong password. A store that is away is waited for while serving."""
    # Not its own database: that may be made in a moment.
    stores: list[AbstractAsyncContextManager[object]] = [connect(settings, database="default")]
    if settings.kafka:
        stores.append(kafka.admin(settings))
    if settings.redis.get_secret_value():
        stores.append(connect_redis(settings))
    for store in stores:
        with suppress(Unavailable):
            async with store:
                pass


def supervised(
    children: Children,
    settings: Settings,
    role: Role,
    host: str,
    port: int,
    *,
    processes: int,
    log_dir: Path | None,
    say: Callable[[str], None],
) -> Supervisor:
    """So many processes that share a port, not started yet."""
    command = [sys.executable, "-m", "tally.serve", role, "--host", host, "--port", str(port)]
    commands = {"api" if processes == 1 else f"api-{number}": [*command] for number in range(processes)}
    if settings.metrics_port:
        for number, each in enumerate(commands.values()):
            each += ["--metrics-port", str(settings.metrics_port + number)]
    return Supervisor(
        children,
        commands,
        environment=settings.as_environment(),
        stop_timeout_s=settings.stop_timeout_ms / 1000 + 5,
        log_dir=log_dir,
        say=say,
    )


async def serve(settings: Settings, role: Role, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT; requests in flight get the stop timeout to end."""
    check(settings, role, host)
    await refuse_wrong(settings)
    config = uvicorn.Config(
        app_of(settings, role),
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=settings.stop_timeout_ms // 1000,
    )
    server = OrderlyServer(config)
    with _listening(host, port) as listening, metrics_served(settings, is_ready=lambda: server.started):
        await server.serve_until_told([listening])
    if not server.started:
        raise TallyError(f"the API could not start on {host}:{port}; its log above says why")


def _listening(host: str, port: int) -> socket.socket:
    """A socket that further processes may share: the kernel spreads connections over them."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listening.bind(address)
        listening.listen(_BACKLOG)
    except OSError as error:
        raise TallyError(f"cannot listen on {host}:{port}: {error}; choose with --host and --port") from None
    return listening


def main() -> None:
    """The process's entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=ROLES)
    parser.add_argument("--host", default=HOST)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--metrics-port", type=int, help="instead of TALLY_METRICS_PORT: of this process alone")
    options = parser.parse_args()
    log.configure()
    try:
        settings = Settings.load(**({} if options.metrics_port is None else {"metrics_port": options.metrics_port}))
        log.configure(settings.log_format)
        asyncio.run(serve(settings, options.role, options.host, options.port))
    except TallyError as error:
        logger.error("%s", error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
