"""Server of the engine: `python -P -m deploy.embedded.clickhouse_http --path DIR --port PORT`."""

import argparse
import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

# The engine's time zone comes from the environment, and the text of times must not depend on the machine.
os.environ["TZ"] = "UTC"

import uvicorn

from deploy.embedded.clickhouse_http.users import User, read_users
from runtime import log, text
from runtime.http.server import GracefulServer

KEEP_ALIVE_S = 60
STOP_S = 10
LOOPBACK = "127.0.0.1"


async def serve(name: str, users: Sequence[User], host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT; running statements have STOP_S seconds to end."""
    # After the change of working directory: at its import the engine reads a config.xml there.
    from deploy.embedded.clickhouse_http.app import Front  # noqa: PLC0415
    from deploy.embedded.clickhouse_http.engine import Engine  # noqa: PLC0415

    front = Front(Engine(name, users), users, only_local=host == LOOPBACK)
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
        await GracefulServer(config).serve_until_signal()
    finally:
        front.close()


def _user_of_environment() -> User:
    """Return the user of the environment, like the official image: arguments of a process are readable by all."""
    return User(os.environ.get("CLICKHOUSE_USER", User().name), os.environ.get("CLICKHOUSE_PASSWORD", ""))


def main() -> None:
    """Read the arguments and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--path", type=Path, required=True, help="the engine's data directory; one process each")
    parser.add_argument("--host", default=LOOPBACK)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--users", type=Path, help="file of users; default: one, of CLICKHOUSE_USER and _PASSWORD")
    options = parser.parse_args()
    log.configure()
    users = read_users(options.users) if options.users else [_user_of_environment()]
    text.register_secrets(user.password for user in users)
    path = options.path.absolute()
    path.mkdir(parents=True, exist_ok=True)
    os.chdir(path.parent)
    asyncio.run(serve(path.name, users, options.host, options.port))


if __name__ == "__main__":
    main()
