"""Worker in a separate process that stops at a failpoint and executes its orders there."""

import asyncio
import io
import logging
import os
import signal
import threading
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import aiokafka.client
import aiokafka.conn

from consumers import failpoints
from consumers.worker import run_worker
from runtime.errors import TallyError
from runtime.settings import Settings
from tests.chaos import controls

MET, TELL = "met", "tell"


class Orders(NamedTuple):
    """Orders of a worker."""

    settings: Settings
    log_path: str
    kafka_ports: dict[int, int]
    """Broker port -> the proxy to use instead: clients take ports from the broker itself."""
    failpoint: str | None = None
    passes: int = 1
    """Act at the n-th pass of the failpoint."""
    action: str = TELL
    """crash: an exception; kill, stop: a signal to itself; tell: tell the campaign, and wait for its word."""
    control: str | None = None
    until_caught_up: bool = False
    instance: str | None = None


class _Crashed(BaseException):
    pass


def main(orders: Orders, line: Connection) -> None:
    """The process's entry."""
    logging.basicConfig(filename=orders.log_path, level=logging.INFO, format="%(asctime)s %(process)d %(message)s")
    _through_proxies(orders.kafka_ports)
    if orders.control is not None:
        controls.CONTROLS[orders.control]()
    resumed = threading.Event()
    threading.Thread(target=_listen, args=(line, resumed), daemon=True).start()
    _Failpoint(orders, line, resumed)
    try:
        asyncio.run(_work(orders))
    except TallyError as error:
        logging.error("%s: %s", type(error).__name__, error)
        logging.shutdown()
        os._exit(error.exit_code)
    except BaseException:
        logging.exception("crashed")
        logging.shutdown()
        os._exit(1)
    os._exit(0)


async def _work(orders: Orders) -> None:
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, _log_where_it_waits)
    await run_worker(orders.settings, instance=orders.instance, until_caught_up=orders.until_caught_up)


def _log_where_it_waits() -> None:
    for task in asyncio.all_tasks():
        text = io.StringIO()
        task.print_stack(file=text)
        logging.error("%s", text.getvalue())


def _listen(line: Connection, resumed: threading.Event) -> None:
    """End with the campaign, however that ends."""
    try:
        while True:
            line.recv()
            resumed.set()
    except (EOFError, OSError):
        os._exit(9)


class _Failpoint:
    def __init__(self, orders: Orders, line: Connection, resumed: threading.Event) -> None:
        self._orders, self._line, self._resumed = orders, line, resumed
        self._passes = 0
        if orders.failpoint is not None:
            failpoints.install(self._reached)

    async def _reached(self, name: str) -> None:
        if name != self._orders.failpoint:
            return
        self._passes += 1
        if self._passes != self._orders.passes:
            return
        self._line.send(MET)
        match self._orders.action:
            case "crash":
                raise _Crashed
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            case _:
                await asyncio.to_thread(self._resumed.wait)


def _through_proxies(ports: dict[int, int]) -> None:
    direct: Any = aiokafka.conn.create_conn

    async def redirected(host: str, port: int, **options: object) -> object:
        return await direct(host, ports.get(port, port), **options)

    aiokafka.client.create_conn = redirected  # type: ignore[attr-defined]
