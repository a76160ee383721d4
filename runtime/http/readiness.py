"""Readiness of the API: the state of each dependency, checked at most twice a second."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Literal, NamedTuple

from runtime.errors import Degraded, TallyError, Unavailable

CHECK_TIMEOUT_S = 2.0
"""Timeout of a readiness check, after which the dependency counts as unavailable."""
READINESS_CACHE_S = 0.5
"""Readiness results are cached for this long."""

DependencyState = Literal["ok", "away", "missing", "degraded"]
"""State of a dependency: missing if requests proceed without it, degraded if an operator has to act."""


class Check(NamedTuple):
    """Readiness check of a dependency. Requests proceed without one that is not `needed`."""

    ask: Callable[[], Awaitable[None]]
    needed: bool = True


class ReadinessState(NamedTuple):
    """States of all dependencies by name, and the problems of degraded ones."""

    ready: bool
    dependencies: Mapping[str, DependencyState]
    problems: Sequence[str]


class Readiness:
    """Checks of one process. Before its start and after its stop the process is not ready."""

    def __init__(self) -> None:
        self.checks: Mapping[str, Check] = _NOT_SERVING
        self._lock = asyncio.Lock()
        self._state: ReadinessState
        self._until = 0.0

    def stop(self) -> None:
        """Report from now on that the process does not serve."""
        self.checks = _NOT_SERVING

    async def check(self) -> ReadinessState:
        """Return the states, which are READINESS_CACHE_S old at most."""
        async with self._lock:
            if time.monotonic() >= self._until:
                states = await asyncio.gather(*map(_state, self.checks.values()))
                named = {name: state for name, (state, _) in zip(self.checks, states, strict=True)}
                problems = [problem for _, problem in states if problem]
                self._state = ReadinessState("away" not in named.values(), named, problems)
                self._until = time.monotonic() + READINESS_CACHE_S
            return self._state


async def _state(check: Check) -> tuple[DependencyState, str]:
    """Return a dependency's state, and the problem of a degraded one."""
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            await check.ask()
    except Degraded as error:
        return "degraded", str(error)
    except (TallyError, TimeoutError):
        return "away" if check.needed else "missing", ""
    return "ok", ""


async def _not_serving() -> None:
    raise Unavailable("the process is starting or stopping")


_NOT_SERVING: Mapping[str, Check] = {"process": Check(_not_serving)}
