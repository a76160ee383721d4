"""A record that ends every worker process that comes to it is named, wherever one looks."""

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from runtime.process.supervisor import Supervisor
from runtime.settings import Settings
from tests.cluster_lab import running_children
from tests.http_lab import api_of
from tests.lab import Lab, as_json, execution_on
from tests.test_stuck import is_clear, is_named, quick, working
from tests.waiting import eventually_async

__all__ = ["quick"]

CRASHING_WORKER = [
    sys.executable,
    "-c",
    "from consumers import failpoints, worker\n"
    "async def die(name):\n"
    "    if name == 'validated': raise RuntimeError('it dies at this record')\n"
    "failpoints.install(die)\n"
    "worker.main()\n",
]
"""A worker that dies at its first batch."""


@contextmanager
def supervised(settings: Settings, command: Sequence[str], folder: Path) -> Iterator[None]:
    """A worker that is started again whenever it dies."""
    with running_children() as children:
        stopping = threading.Event()
        supervisor = Supervisor(
            children,
            {"worker-0": command},
            environment=settings.as_environment(),
            stop_timeout_s=30,
            log_dir=folder,
        )
        supervisor.start()

        def look() -> None:
            while not stopping.wait(0.05):
                supervisor.poll()

        looking = threading.Thread(target=look)
        looking.start()
        try:
            yield
        finally:
            stopping.set()
            looking.join()
            supervisor.stop()


async def test_a_record_that_ends_every_worker_is_named(lab: Lab, quick: Settings, tmp_path: Path) -> None:
    """A worker fails again after each restart; once one commits the record, the state is clear."""
    await lab.put(as_json(execution=execution_on(3, "stored")), partition=3)
    await lab.drain()
    await lab.put(as_json(execution=execution_on(3, "deadly")), partition=3)

    async def has_died_twice() -> bool:
        return (tmp_path / "worker-0.log").read_text().count("it dies at this record") > 1

    async with api_of(quick) as api:
        with supervised(quick, CRASHING_WORKER, tmp_path):
            await eventually_async(has_died_twice)
            await is_named(quick, api, 3, 1)
        async with working(quick):
            await is_clear(quick, api)
