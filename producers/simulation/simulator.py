"""Seeded simulator of search sessions, with known shares of duplicates, late and faulty events.

The world (`producers.simulation.world`) and the users are the same for every seed; the seed decides what happens.
"""

import random
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from producers.simulation.faults import INVALID_EVENTS, Fault, Timed
from producers.simulation.people import DEFAULT_USERS, population
from producers.simulation.sessions import Sessions
from producers.simulation.timeline import DAY_MS, Backfill, in_order_of_time
from producers.simulation.world import RETRIEVERS, the_world
from schemas.event_time import to_epoch_ms
from schemas.interaction import Interaction

MAX_REPEAT_DISTANCE = 2_000
"""Largest number of events between a duplicate and its original."""
MAX_LATE_MINUTES = 50
MAX_SHARE = 0.9
MAX_BAD = 0.5
MAX_LIFT = 10.0


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


class Simulator:
    """Stream of interactions. The same arguments and clock yield the same stream.

    `duplicates` and `late` are shares of all events, from 0 to 0.9. A duplicate repeats the execution, feature and
    types of an earlier event. A late event has an `occurred_at` of up to 50 minutes ago. `lifts` are factors of
    attraction by name of retriever. `bad` is the share of executions with faulty tracking, and, again, of executions
    by bots, from 0 to 0.5.

    A live stream has no end. With a `backfill`, the stream is the time before now, in the order of `occurred_at`, apart
    from duplicates and clocks that are ahead; no event of it is late.
    """

    def __init__(
        self,
        seed: int,
        *,
        duplicates: float = 0.05,
        late: float = 0.02,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        users: int = DEFAULT_USERS,
        lifts: Mapping[str, float] | None = None,
        bad: float = 0,
        backfill: Backfill | None = None,
    ) -> None:
        if not (0 <= duplicates <= MAX_SHARE and 0 <= late <= MAX_SHARE):
            raise ValueError(f"the shares of duplicates and late events must be between 0 and {MAX_SHARE}")
        if not 0 <= bad <= MAX_BAD:
            raise ValueError(f"the share of faulty executions must be between 0 and {MAX_BAD}")
        if backfill:
            backfill.check()
        self.users = users
        self.lifts = check_lifts(lifts or {})
        self.parameters = {
            **{"seed": seed, "duplicates": duplicates, "late": 0.0 if backfill else late, "users": users},
            **{"lifts": self.lifts, "bad": bad, "backfill": backfill._asdict() if backfill else None},
        }
        """Arguments, for the truth."""
        self.emitted = EmittedCounts()
        self._random = random.Random(seed)
        self._duplicates = duplicates
        self._late = 0.0 if backfill else late
        self._clock = clock
        self._backfill = backfill
        self._recent: deque[Interaction] = deque(maxlen=MAX_REPEAT_DISTANCE)
        self._sessions = Sessions(
            self._random,
            the_world(),
            population(users),
            lifts=self.lifts,
            bad=bad,
            is_dated=backfill is not None,
        )

    def __iter__(self) -> Iterator[Interaction]:
        """Yield interactions."""
        chance, recent, emitted = self._random.random, self._recent, self.emitted
        for timed in self._timeline():
            while recent and chance() < self._duplicates:
                emitted.events += 1
                emitted.duplicates += 1
                yield self._random.choice(recent)
            event = timed.event
            if timed.fault:
                emitted.faults[timed.fault] += 1
            elif self._late and chance() < self._late:
                event = self._made_late(event)
            if event.execution_id and timed.fault not in INVALID_EVENTS:  # others have no deduplication key
                recent.append(event)
            emitted.events += 1
            yield event

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

    def _made_late(self, event: Interaction) -> Interaction:
        self.emitted.late += 1
        moment = self._clock() - timedelta(minutes=self._random.uniform(1, MAX_LATE_MINUTES))
        return event.model_copy(update={"occurred_at": moment})


def check_lifts(lifts: Mapping[str, float]) -> dict[str, float]:
    """Return the lifts. Raises ValueError for an unknown retriever, and for a factor below 0 or above MAX_LIFT."""
    names = [each.name for each in RETRIEVERS]
    for name, factor in lifts.items():
        if name not in names:
            raise ValueError(f"{name!r} is not a retriever of the simulation: {', '.join(names)}")
        if not 0 <= factor <= MAX_LIFT:
            raise ValueError(f"the lift of {name} must be a factor between 0 and {MAX_LIFT:.0f}")
    return dict(lifts)
