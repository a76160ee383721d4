"""Crashes at failpoints: a test that asks for one fails when it did not happen."""

from collections.abc import Iterator
from contextlib import contextmanager

from consumers import failpoints


class Crashed(BaseException):
    """The end of a process, as far as one process can have it: nothing that handles errors may handle it."""


@contextmanager
def at_failpoint(hook: failpoints.Hook) -> Iterator[None]:
    """Call a hook at every failpoint inside the block."""
    failpoints.install(hook)
    try:
        yield
    finally:
        failpoints.install(failpoints.pass_on)


@contextmanager
def crash_if_reached(failpoint: str, passes: int = 1) -> Iterator[None]:
    """Crash at the n-th pass of a failpoint, if the block comes to it, and end the block there."""
    left = passes

    async def crash(name: str) -> None:
        nonlocal left
        left -= name == failpoint
        if left == 0:
            left = -1
            raise Crashed

    with at_failpoint(crash):
        try:
            yield
        except Crashed:
            assert left < 0


@contextmanager
def crash_at(failpoint: str) -> Iterator[None]:
    """Crash at the first pass of a failpoint, and end the block there; fail the test when it is not reached."""
    reached = False

    async def crash(name: str) -> None:
        nonlocal reached
        if name == failpoint:
            reached = True
            raise Crashed

    with at_failpoint(crash):
        try:
            yield
        except Crashed:
            assert reached
            return
    raise AssertionError(f"nothing crashed, though failpoint {failpoint} was {'' if reached else 'not '}reached")
