"""CPU priority of the engine's merge threads, which must not delay queries and inserts on a few cores.

The engine's own setting `os_threads_nice_value_merge_mutate` gives a thread its priority back after each merge. Without
the right to do so (CAP_SYS_NICE) that ends the process.
"""

import os
import sys
from contextlib import suppress
from pathlib import Path

import chdb

MERGE_NICENESS = 5
"""Niceness of merge threads. A merge beside one query on the same core has a quarter of the time."""

_NAME = "MergeMutate"
_START = "CREATE TEMPORARY TABLE merged (number UInt8) ENGINE = MergeTree ORDER BY number"
_THREADS = Path("/proc/self/task")


def lower_merges(address: str) -> None:
    """Lower the priority of the merge threads, for as long as the engine runs. Without effect outside Linux."""
    if sys.platform != "linux":
        return
    session = chdb.connect(address)
    try:
        session.query(_START)  # the engine starts merge threads with its first table
    finally:
        session.close()
    for thread in _THREADS.iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            if (thread / "comm").read_text().startswith(_NAME):
                os.setpriority(os.PRIO_PROCESS, int(thread.name), MERGE_NICENESS)
