"""Last step of every stream of the simulator: repeats of recent events, and the counts of what was yielded."""

import random
from collections import Counter, deque
from dataclasses import dataclass, field

from producers.simulation.faults import INVALID_EVENTS, Fault, Timed
from schemas.interaction import Interaction

MAX_REPEAT_DISTANCE = 2_000
"""Largest number of events between a duplicate and its original."""


@dataclass
class EmittedCounts:
    """Counts of the events that a simulator has yielded."""

    events: int = 0
    duplicates: int = 0
    """Repeats of an earlier event, which are stored once if they arrive within the deduplication window."""
    late: int = 0
    faults: Counter[Fault] = field(default_factory=Counter)
    """Planted faults by kind: each is one event, execution or (bot) session."""

    @property
    def rejected(self) -> int:
        """Invalid events."""
        return sum(self.faults[kind] for kind in INVALID_EVENTS)

    @property
    def stored(self) -> int:
        """Events that are neither invalid nor duplicates."""
        return self.events - self.duplicates - self.rejected


class Emission:
    """Counter of yielded events, and source of repeats. `duplicates` is the share of repeats, from 0 to 0.9."""

    def __init__(self, source: random.Random, duplicates: float) -> None:
        self.counts = EmittedCounts()
        self._source = source
        self._duplicates = duplicates
        self._recent: deque[tuple[int, Interaction]] = deque(maxlen=MAX_REPEAT_DISTANCE)

    def repeat(self, since_ms: int = 0) -> Interaction | None:
        """Draw whether the next event is a repeat: return an event yielded at or after `since_ms`, or None."""
        recent = self._recent
        while recent and recent[0][0] < since_ms:
            recent.popleft()
        if not recent or self._source.random() >= self._duplicates:
            return None
        self.counts.events += 1
        self.counts.duplicates += 1
        return self._source.choice(recent)[1]

    def first(self, timed: Timed) -> Interaction:
        """Return an event that is yielded for the first time, at its time."""
        if timed.fault:
            self.counts.faults[timed.fault] += 1
        if timed.event.execution_id and timed.fault not in INVALID_EVENTS:  # others have no deduplication key
            self._recent.append((timed.ms, timed.event))
        self.counts.events += 1
        return timed.event
