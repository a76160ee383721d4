"""Server of the console: `python -m console --port 8090`."""

import argparse
import json
import logging
import socket
import sys
from datetime import UTC, datetime

import uvicorn

from console.app import create_app
from console.settings import ConsoleSettings, ConsoleSettingsError

HOST, PORT = "127.0.0.1", 8090
STOP_TIMEOUT_S = 5
BACKLOG = 1_024
log = logging.getLogger("tally.console")


class _JsonLines(logging.Formatter):
    """Log lines as JSON objects."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"timestamp": at, "level": record.levelname, "logger": record.name, "message": record.getMessage()}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def serve(settings: ConsoleSettings, host: str, port: int) -> bool:
    """Serve until SIGTERM or SIGINT. Return False if the server could not start, such as on a port that is taken."""
    if not settings.secrets:
        log.info("TALLY_CONSOLE_SECRETS is not set: sessions end when this process ends")
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=STOP_TIMEOUT_S,
        h11_max_incomplete_event_size=64 * 1024,
    )
    server = uvicorn.Server(config)
    shown = f"[{host}]" if ":" in host else host
    try:
        listening = _listen(host, port)
    except OSError as error:
        log.error("cannot listen on %s:%d: %s; choose with --host and --port", shown, port, error.strerror)
        return False
    with listening:
        log.info("console on http://%s:%d, API at %s", shown, port, settings.api)
        server.run(sockets=[listening])
    return server.started


def _listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; `::` stands for every address of the machine. Raises OSError."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # `tally up` reserves the port meanwhile
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host != "::"))
        listening.bind(address)
        listening.listen(BACKLOG)
    except OSError:
        listening.close()
        raise
    return listening


def configure_log(settings: ConsoleSettings | None = None) -> None:
    """Write log lines to standard error."""
    handler = logging.StreamHandler()
    if settings and settings.log_format == "json":
        handler.setFormatter(_JsonLines())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for each request, with its query


def main() -> None:
    """Run one console process."""
    parser = argparse.ArgumentParser(
        prog="python -m console",
        description="Serve Tally's web console. TALLY_CONSOLE_API is the address of the API.",
        epilog="Example: TALLY_CONSOLE_API=http://127.0.0.1:8080 python -m console --port 8090",
    )
    parser.add_argument("--host", default=HOST, help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=PORT, help="port to listen on (%(default)s)")
    options = parser.parse_args()
    configure_log()
    try:
        settings = ConsoleSettings.load()
    except ConsoleSettingsError as error:
        log.error("%s", error)
        sys.exit(2)
    configure_log(settings)
    try:
        sys.exit(0 if serve(settings, options.host, options.port) else 1)
    except KeyboardInterrupt:
        sys.exit(130)
