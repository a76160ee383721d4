"""Attacks as named cases: each is tried with one seed in the everyday tests, with many by `make hostile`."""

from collections.abc import Awaitable, Callable
from random import Random
from typing import NamedTuple

from tests.lab import Lab


class Attack(NamedTuple):
    """Actions of a case."""

    tries: int
    """Records, or requests."""
    note: str = ""
    """Measurements."""


Case = Callable[[Lab, Random], Awaitable[Attack]]
"""Case of a suite. Raises AssertionError if the statement in its docstring does not hold."""


def named(*cases: Case) -> dict[str, Case]:
    """Cases by their functions' names."""
    return {getattr(case, "__name__", repr(case)): case for case in cases}
