"""The workers of one run: processes that are started, awaited, and replaced when they die."""

import asyncio
import contextlib
import multiprocessing
import os
import signal
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess

from tests.chaos import child
from tests.chaos.child import Orders

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.chaos.campaign"])

UNEXPECTED = (2, 3, 5)
"""Exit codes that nothing in a campaign may lead to: settings, fatal, too many rejects."""
STOP_S = 20.0


class Member:
    """Worker process."""

    def __init__(self, orders: Orders) -> None:
        self.orders = orders
        self._line, far_end = _context.Pipe()
        self.process: ForkServerProcess = _context.Process(target=child.main, args=(orders, far_end), daemon=True)
        self.process.start()
        far_end.close()

    async def met(self, timeout_s: float) -> bool:
        """Return whether it reached its failpoint within the time."""
        return await asyncio.to_thread(_poll, self._line, timeout_s)

    def let_continue(self) -> None:
        """Let it continue from its failpoint."""
        with contextlib.suppress(OSError):
            self._line.send(child.TELL)

    def signal(self, number: int) -> None:
        """Send it a signal, if it is still there."""
        if self.process.pid is not None and self.process.exitcode is None:
            with contextlib.suppress(ProcessLookupError):  # it ended in this very moment
                os.kill(self.process.pid, number)

    async def ended(self, timeout_s: float) -> bool:
        """Return whether it ended within the time."""
        await asyncio.to_thread(self.process.join, timeout_s)
        return self.process.exitcode is not None

    def close(self) -> None:
        """End it at once, if it has not ended."""
        self.signal(signal.SIGKILL)
        self.process.join()
        self._line.close()


def _poll(line: Connection, timeout_s: float) -> bool:
    try:
        if line.poll(timeout_s):
            line.recv()
            return True
    except (EOFError, OSError):
        pass
    return False


class Crew:
    """All workers of one run, ended ones included."""

    def __init__(self, plain: Orders) -> None:
        self._plain = plain
        self._members: list[Member] = []
        self.kills = 0

    def start(self, **orders: object) -> Member:
        """Start a worker; without orders one that just works."""
        member = Member(self._plain._replace(**orders))  # type: ignore[arg-type]
        self._members.append(member)
        return member

    def replace_dead(self) -> list[str]:
        """Start a new worker for each that ended; returns unexpected ends."""
        problems = []
        for member in list(self._members):
            code = member.process.exitcode
            if code is None:
                continue
            self._members.remove(member)
            self.kills += code == -signal.SIGKILL
            if code in UNEXPECTED:
                problems.append(f"a worker exited with {code}")
            elif code != 0:
                self.start(instance=member.orders.instance)
        return problems

    def dismiss(self, member: Member) -> None:
        """End a worker at once, and do not replace it."""
        member.close()
        self._members.remove(member)

    async def stop(self) -> list[str]:
        """Let every worker finish and leave."""
        problems = []
        for member in self._members:
            member.signal(signal.SIGTERM)
        for member in self._members:
            if not await member.ended(STOP_S):
                problems.append("a worker did not stop")
                member.signal(signal.SIGUSR1)  # its log tells where it waits
                await member.ended(1)
            elif member.process.exitcode in UNEXPECTED:
                problems.append(f"a worker exited with {member.process.exitcode}")
        return problems

    def close(self) -> None:
        """Stop all workers."""
        for member in self._members:
            member.close()


async def let_go_when_late(victim: Member) -> None:
    """Let a worker that reaches its failpoint too late continue."""
    while not await victim.met(0.5):
        if await victim.ended(0):
            return
    victim.let_continue()
    victim.signal(signal.SIGCONT)
