"""The reader's process: `python -m readers.serve --port 8080`. Its settings come through the environment."""

import argparse
import asyncio
import logging
import sys

import uvicorn

from readers.app import create_app
from runtime import log
from runtime.clickhouse import connect
from runtime.errors import TallyError
from runtime.settings import Settings

logger = logging.getLogger("tally.api")
HOST = "127.0.0.1"


async def serve(settings: Settings, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT; requests in flight get the stop timeout to end."""
    async with connect(settings):  # an address that is wrong is said in one line, not from inside the server
        pass
    config = uvicorn.Config(
        create_app(settings),
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=settings.stop_timeout_ms // 1000,
    )
    server = uvicorn.Server(config)
    await server.serve()
    if not server.started:
        raise TallyError(f"the API could not start on {host}:{port}; its log above says why")


def main() -> None:
    """The process's entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default=HOST)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    log.configure()
    try:
        asyncio.run(serve(Settings.load(), options.host, options.port))
    except TallyError as error:
        logger.error("%s", error)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
