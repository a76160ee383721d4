"""Serve the engine: `python -m deploy.embedded.clickhouse_http --path DIR --port PORT`."""

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# The engine takes its time zone from the environment, and a table's text must not depend on the machine's.
os.environ["TZ"] = "UTC"

import uvicorn

from deploy.embedded.clickhouse_http.app import Front
from deploy.embedded.clickhouse_http.engine import Engine

KEEP_ALIVE_S = 60
STOP_S = 10


async def serve(path: Path, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT; running statements get STOP_S seconds to end."""
    front = Front(Engine(str(path)))
    config = uvicorn.Config(
        front,
        host=host,
        port=port,
        http="httptools",
        lifespan="off",
        log_level="warning",
        access_log=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=STOP_S,
    )
    server = _Server(config)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.stop)
    try:
        await server.serve()
    finally:
        front.close()


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling, which ends the process before the engine could be closed."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def stop(self) -> None:
        """Stop accepting, let running requests end, return from `serve`."""
        self.should_exit = True


def main() -> None:
    """Read the arguments and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--path", type=Path, required=True, help="the engine's data directory; one process each")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    options.path.mkdir(parents=True, exist_ok=True)
    asyncio.run(serve(options.path, options.host, options.port))


if __name__ == "__main__":
    main()
