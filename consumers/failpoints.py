"""Failpoints: named places between two steps of a batch, where a crash must change nothing (as fail(9) of FreeBSD).

In production they do nothing. The campaign in `tests/chaos` injects a fault at each of them.
"""

from collections.abc import Awaitable, Callable

FAILPOINTS = (
    "validated",  # nothing has been written
    "resumed",  # records that are stored already were dropped
    "taken",  # the lease on a partition's claims is taken, and not confirmed by the group yet
    "restored",  # a part of lost claims was restored
    "claimed",  # a batch's keys are claimed
    "refused",  # ClickHouse refused a row; its claim is released, its dead letter not written yet
    "stored",  # rows are in `interactions`
    "erased",  # rows of deleted events are erased
    "signalled",  # session signals have the events of the group
    "copied",  # copies of misplaced events are on the partitions of their keys
    "lettered",  # dead letters are written, also those that go before the other events of their batch
    "recorded",  # rows are in `outcomes`
    "committed",  # offsets are committed
)

Hook = Callable[[str], Awaitable[None]]


async def pass_on(_name: str) -> None:
    """Do nothing: the hook of every process but those of tests."""


_hook: Hook = pass_on


async def reached(name: str) -> None:
    """Call the hook with a failpoint's name."""
    await _hook(name)


def install(hook: Hook) -> None:
    """Call `hook` at every failpoint of this process."""
    global _hook  # noqa: PLW0603  (one hook a process, as a debugger would have)
    _hook = hook
