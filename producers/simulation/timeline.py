"""Simulated time of a backfill: sessions that begin at random with a daily cycle, merged into one ordered stream."""

import heapq
import math
import random
from collections.abc import Iterator
from typing import NamedTuple

from producers.simulation.faults import Timed
from producers.simulation.sessions import Sessions

DAY_MS = 86_400_000
DAILY_SWING = 0.6
"""Traffic at the busiest hour is 1 + DAILY_SWING times the mean, at the quietest 1 - DAILY_SWING times."""
BUSIEST_HOUR = 20
"""Hour of the day, in UTC."""
MAX_DAYS = 3_650
MAX_BACKFILL_RATE = 1_000.0
DEFAULT_BACKFILL_RATE = 0.2
"""Events per second of simulated time: 7 days are about 121,000 events."""


class Backfill(NamedTuple):
    """Period that ends now, of this many days, with a mean number of events per second of simulated time."""

    days: float
    rate: float

    def check(self) -> None:
        """Raise ValueError for days outside 0 (excluded) to MAX_DAYS, or a rate outside 0 to MAX_BACKFILL_RATE."""
        if not 0 < self.days <= MAX_DAYS:
            raise ValueError(f"the days of a backfill must be more than 0 and at most {MAX_DAYS:,}")
        if not 0 < self.rate <= MAX_BACKFILL_RATE:
            raise ValueError(
                f"the rate of a backfill must be more than 0 and at most {MAX_BACKFILL_RATE:,.0f} events/s"
            )


def relative_traffic(ms: float) -> float:
    """Return the traffic at a time, in ms since 1970, relative to the mean."""
    phase = 2 * math.pi * (ms / DAY_MS - BUSIEST_HOUR / 24)
    return 1 + DAILY_SWING * math.cos(phase)


def in_order_of_time(
    sessions: Sessions, begin_ms: int, end_ms: int, sessions_per_s: float, source: random.Random
) -> Iterator[Timed]:
    """Yield the events of sessions that begin between two times, as far as they happen before `end_ms`.

    Memory is bounded by the events of sessions that are open at the same time.
    """
    waiting: list[tuple[int, int, Timed]] = []
    number = 0
    for session_ms in _beginnings(begin_ms, end_ms, sessions_per_s, source):
        while waiting and waiting[0][0] < session_ms:
            yield heapq.heappop(waiting)[2]
        for timed in sessions.next(session_ms):
            if timed.ms < end_ms:
                number += 1  # orders events of the same time
                heapq.heappush(waiting, (timed.ms, number, timed))
    while waiting:
        yield heapq.heappop(waiting)[2]


def _beginnings(begin_ms: int, end_ms: int, sessions_per_s: float, source: random.Random) -> Iterator[int]:
    """Yield the times at which sessions begin: a Poisson process, thinned to the daily cycle."""
    highest_per_ms = sessions_per_s * (1 + DAILY_SWING) / 1_000
    ms = float(begin_ms)
    while (ms := ms + source.expovariate(highest_per_ms)) < end_ms:
        if source.random() * (1 + DAILY_SWING) < relative_traffic(ms):
            yield int(ms)
