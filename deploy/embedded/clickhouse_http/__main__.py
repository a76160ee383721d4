"""Serve the engine: `python -m deploy.embedded.clickhouse_http --path DIR --port PORT`."""

import argparse
import asyncio
import logging
import os
import sys
from pathlib import Path

# The engine takes its time zone from the environment, and a table's text must not depend on the machine's.
os.environ["TZ"] = "UTC"

import uvicorn

from deploy.embedded.clickhouse_http.app import Front
from deploy.embedded.clickhouse_http.engine import Engine
from deploy.embedded.clickhouse_http.request import User
from runtime.http.server import OrderlyServer

KEEP_ALIVE_S = 60
STOP_S = 10


async def serve(path: Path, host: str, port: int, user: User) -> None:
    """Serve until SIGTERM or SIGINT; running statements get STOP_S seconds to end."""
    front = Front(Engine(str(path)), user)
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
    try:
        await OrderlyServer(config).serve_until_told()
    finally:
        front.close()


def main() -> None:
    """Read the arguments and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--path", type=Path, required=True, help="the engine's data directory; one process each")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--user", default=User().name)
    parser.add_argument("--password", default=User().password)
    options = parser.parse_args()
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    options.path.mkdir(parents=True, exist_ok=True)
    asyncio.run(serve(options.path, options.host, options.port, User(options.user, options.password)))


if __name__ == "__main__":
    main()
