"""Workers in the foreground, and the counts that they leave."""

import asyncio
import os
import socket

from consumers.supervised import supervised_workers
from readers.overview import Overview, read_overview
from runtime import clickhouse, log
from runtime.process.children import Children
from runtime.settings import Settings
from tally.foreground import logger, run_until_stopped


def consume(settings: Settings, *, workers: int, name: str | None, until_caught_up: bool) -> Overview:
    """Run workers until stopped or, with `until_caught_up`, until the topic is drained; return the counts then."""
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
        run_until_stopped(supervisor)
    finally:
        children.close()
    return asyncio.run(_overview(settings))


async def _overview(settings: Settings) -> Overview:
    async with clickhouse.connect(settings) as database:
        return await read_overview(settings, database)
