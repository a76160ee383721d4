"""Incidents: problems of the pipeline with their beginning and end, also while nobody looks at it."""

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import NamedTuple

OBSERVE_EVERY_S = 5.0
"""Pause between two observations of the problems, so also the precision of their times."""
MAX_ENDED = 50
"""Maximum ended incidents that are kept, the latest ones."""


class Incident(NamedTuple):
    """Problem with the time (ms since 1970) of its first observation, and of the first one without it."""

    kind: str
    problem: str
    since_ms: int
    until_ms: int | None = None


class Incidents:
    """Incidents that one process has observed since its start. A restart forgets them."""

    def __init__(self, now_ms: Callable[[], int] = lambda: int(time.time() * 1000)) -> None:
        self._now_ms = now_ms
        self._open: dict[str, Incident] = {}
        self._ended: deque[Incident] = deque(maxlen=MAX_ENDED)

    def note(self, problems: Mapping[str, str]) -> None:
        """Note the present problems by kind. A changed text of a kind belongs to the same incident."""
        now_ms, before = self._now_ms(), self._open
        self._ended.extend(each._replace(until_ms=now_ms) for kind, each in before.items() if kind not in problems)
        self._open = {
            kind: Incident(kind, problem, before[kind].since_ms if kind in before else now_ms)
            for kind, problem in problems.items()
        }

    def latest(self) -> list[Incident]:
        """Return the present incidents in the order of their problems, then the ended ones, the latest first."""
        return [*self._open.values(), *reversed(self._ended)]
