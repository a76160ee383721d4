"""Supervised processes in the foreground of a command."""

import logging
import signal
import time

from runtime.process.supervisor import Supervisor

POLL_S = 0.1

logger = logging.getLogger("tally.supervisor")


def run_until_stopped(supervisor: Supervisor) -> None:
    """Run the supervisor's processes until SIGINT, SIGTERM or the end of all of them, then stop the rest."""
    stopping: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _frame: stopping.append(received))
    try:
        supervisor.start()
        while not stopping and supervisor.poll():
            time.sleep(POLL_S)
    finally:
        supervisor.stop()
