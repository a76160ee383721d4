"""Supervised processes in the foreground of a command."""

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import closing

from consumers.supervised import supervised_workers
from readers.overview import Overview, read_overview
from runtime import clickhouse, log
from runtime.process.children import Children
from runtime.process.supervisor import Supervisor
from runtime.settings import Settings

POLL_S = 0.1

logger = logging.getLogger("tally.supervisor")


def run_until_stopped(settings: Settings, supervisor_of: Callable[[Children], Supervisor]) -> None:
    """Run a supervisor's processes until SIGINT, SIGTERM or the end of all of them, then stop the rest."""
    log.configure(settings.log_format)
    stopping: list[int] = []
    with closing(Children()) as children:
        supervisor = supervisor_of(children)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda received, _frame: stopping.append(received))
        try:
            supervisor.start()
            while not stopping and supervisor.poll():
                time.sleep(POLL_S)
        finally:
            supervisor.stop()


def consume(settings: Settings, *, workers: int, name: str | None, until_caught_up: bool) -> Overview:
    """Run workers until stopped or, with `until_caught_up`, until the topic is drained; return the counts then."""

    def supervisor_of(children: Children) -> Supervisor:
        return supervised_workers(
            children,
            settings,
            workers=workers,
            # A drain leaves the group when it ends; a static member would hold its partitions until its session ends.
            instance_prefix=None if until_caught_up else name or f"{socket.gethostname()}-{os.getpid()}",
            log_dir=None,
            until_caught_up=until_caught_up,
            say=logger.warning,
        )

    async def overview() -> Overview:
        async with clickhouse.connect(settings) as database:
            return await read_overview(settings, database)

    run_until_stopped(settings, supervisor_of)
    return asyncio.run(overview())
