"""Seeded simulator of search sessions, with known shares of duplicate, late and faulty events.

The world (`producers.simulation.world`) and the users are the same for every seed; the seed decides what happens.
"""

import random
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from producers.simulation.emission import Emission
from producers.simulation.faults import Timed
from producers.simulation.live import DEFAULT_LATE, LiveTraffic, check_live
from producers.simulation.people import DEFAULT_USERS, population
from producers.simulation.sessions import Sessions
from producers.simulation.timeline import DAY_MS, Backfill, in_order_of_time
from producers.simulation.world import RETRIEVERS, the_world
from schemas.event_time import to_epoch_ms
from schemas.interaction import Interaction

MAX_DUPLICATES = 0.9
MAX_BAD = 0.5
MAX_LIFT = 10.0


class Simulator:
    """Stream of interactions. The same arguments and clock yield the same stream.

    `duplicates` is a share of all events, from 0 to 0.9: they repeat the execution, feature and types of an earlier
    event. `lifts` are factors of attraction by name of retriever. `bad` is the share of executions with faulty
    tracking, and, again, of executions by bots, from 0 to 0.5. `shuffle` is the share of executions, from 0 to 1, that
    show their results in a uniformly random order.

    An iteration has no end and no pauses: sessions follow one another as load, and no event has an `occurred_at`. With
    a `backfill`, it is the time before now, in the order of `occurred_at`, apart from duplicates and clocks that are
    ahead. `live` has the events in real time.
    """

    def __init__(
        self,
        seed: int,
        *,
        duplicates: float = 0.05,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        users: int = DEFAULT_USERS,
        lifts: Mapping[str, float] | None = None,
        bad: float = 0,
        shuffle: float = 0,
        backfill: Backfill | None = None,
    ) -> None:
        if not 0 <= duplicates <= MAX_DUPLICATES:
            raise ValueError(f"the share of duplicates must be between 0 and {MAX_DUPLICATES}")
        if not 0 <= bad <= MAX_BAD:
            raise ValueError(f"the share of faulty executions must be between 0 and {MAX_BAD}")
        if not 0 <= shuffle <= 1:
            raise ValueError("the share of shuffled executions must be between 0 and 1")
        if backfill:
            backfill.check()
        self.users = users
        self.lifts = check_lifts(lifts or {})
        self.shuffle = shuffle
        self.parameters: dict[str, Any] = {
            **{"seed": seed, "duplicates": duplicates, "late": 0.0, "users": users, "lifts": self.lifts, "bad": bad},
            **{"shuffle": shuffle, "backfill": backfill._asdict() if backfill else None, "live_rate": None},
        }
        """Arguments, for the truth."""
        self._random = random.Random(seed)
        self._duplicates = duplicates
        self._emission = Emission(self._random, duplicates)
        self.emitted = self._emission.counts
        self._clock = clock
        self._backfill = backfill
        self._sessions = Sessions(
            self._random,
            the_world(),
            population(users),
            lifts=self.lifts,
            bad=bad,
            shuffle=shuffle,
            is_dated=backfill is not None,
        )

    def __iter__(self) -> Iterator[Interaction]:
        """Yield interactions."""
        emission = self._emission
        for timed in self._timeline():
            while (repeated := emission.repeat()) is not None:
                yield repeated
            yield emission.first(timed)

    def live(self, rate: float, late: float = DEFAULT_LATE) -> LiveTraffic:
        """Return events in real time from now on, with a mean of `rate` per second and this share of late events.

        Raises ValueError for a rate or a share out of bounds.
        """
        if self._backfill:
            raise ValueError("a backfill has no live traffic")
        check_live(rate, late)
        self.parameters |= {"live_rate": rate, "late": late}
        first_rate = rate * (1 - self._duplicates)  # repeats come on top
        return LiveTraffic(self._sessions, self._emission, self._random, self._now_ms(), rate=first_rate, late=late)

    def _timeline(self) -> Iterator[Timed]:
        if not self._backfill:
            while True:
                yield from self._sessions.next(self._now_ms())
        from producers.simulation.expected import events_per_session  # noqa: PLC0415  (numpy, for backfills only)

        days, rate = self._backfill
        end_ms = self._now_ms()
        # Duplicates are added to the events of sessions.
        sessions_per_s = rate * (1 - self._duplicates) / events_per_session(self.users, self.lifts)
        begin_ms = end_ms - int(days * DAY_MS)
        yield from in_order_of_time(self._sessions, begin_ms, end_ms, sessions_per_s, self._random)

    def _now_ms(self) -> int:
        return to_epoch_ms(self._clock())


def check_lifts(lifts: Mapping[str, float]) -> dict[str, float]:
    """Return the lifts. Raises ValueError for an unknown retriever, and for a factor below 0 or above MAX_LIFT."""
    names = [each.name for each in RETRIEVERS]
    for name, factor in lifts.items():
        if name not in names:
            raise ValueError(f"{name!r} is not a retriever of the simulation: {', '.join(names)}")
        if not 0 <= factor <= MAX_LIFT:
            raise ValueError(f"the lift of {name} must be a factor between 0 and {MAX_LIFT:.0f}")
    return dict(lifts)
