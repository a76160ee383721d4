"""Live traffic: sessions in real time, in which every event has a time at which it is due, and some arrive late."""

import heapq
import random

from producers.simulation.emission import Emission
from producers.simulation.faults import Timed
from producers.simulation.sessions import Sessions
from schemas.event_time import from_epoch_ms
from schemas.interaction import Interaction

MAX_LIVE_RATE = 5_000.0
"""Events per second, at most. The events of open sessions are in memory: about half a minute of traffic."""
DEFAULT_LIVE_RATE = 5.0
"""Events per second of a small shop. A day of it is about seven times the demo's week."""
DEFAULT_LATE = 0.02
MAX_LATE = 0.9
LATE_MS = 5_000, 120_000
"""Shortest and longest delay in ms of a late event."""
MAX_REPEAT_MS = 60_000
"""Longest time in ms from an event to its repeat: within every deduplication window that makes sense."""


class LiveTraffic:
    """Events of sessions at a mean rate of `rate` events per second, from `begin_ms` on, in ms since 1970.

    A session begins whenever fewer events are due than `rate` asks for, the first one at once. An event has no
    `occurred_at`, unless it is late: then it has the time at which it was due, and arrives LATE_MS after it.
    `late` is the share of late events, from 0 to 0.9. No execution has a reaction before all its impressions are due.
    """

    def __init__(
        self, sessions: Sessions, emission: Emission, source: random.Random, begin_ms: int, *, rate: float, late: float
    ) -> None:
        self._sessions = sessions
        self._emission = emission
        self._source = source
        self._begin_ms = begin_ms
        self._events_per_ms = rate / 1_000
        self._late = late
        self._waiting: list[tuple[int, int, Timed]] = []
        self._held: list[tuple[int, int, Timed]] = []
        """Late events, by the time of their arrival."""
        self._number = 0
        self._passed = 0
        """Events of sessions that have been taken or held."""
        self._lost_ms = 0

    @property
    def due_ms(self) -> int:
        """Time, in ms since 1970, at which `take` should be called next."""
        self._open_sessions()
        due_ms = self._waiting[0][0]
        return (min(due_ms, self._held[0][0]) if self._held else due_ms) + self._lost_ms

    @property
    def held(self) -> int:
        """Number of late events that have not arrived yet."""
        return len(self._held)

    def take(self) -> Interaction | None:
        """Take the event that is due next, or None where that event is held, as it is late."""
        self._open_sessions()
        due_ms = self._waiting[0][0]
        if self._held and self._held[0][0] <= due_ms:
            return self.take_held()
        if (repeated := self._emission.repeat(due_ms - MAX_REPEAT_MS)) is not None:
            return repeated
        _, _, timed = heapq.heappop(self._waiting)
        self._passed += 1
        if timed.fault or timed.event.occurred_at or self._source.random() >= self._late:
            return self._emission.first(timed)
        self._hold(timed)
        return None

    def take_held(self) -> Interaction:
        """Take the late event that arrives next, whether or not it is due. Raises IndexError if `held` is 0."""
        _, _, timed = heapq.heappop(self._held)
        self._emission.counts.late += 1
        return self._emission.first(timed)

    def postpone(self, ms: int) -> None:
        """Postpone all that is to come: the program was unable to keep up, or was suspended, for this time in ms."""
        self._lost_ms += ms

    def _hold(self, timed: Timed) -> None:
        event = timed.event.model_copy(update={"occurred_at": from_epoch_ms(timed.ms + self._lost_ms)})
        arrival_ms = timed.ms + int(self._source.uniform(*LATE_MS))
        self._number += 1
        heapq.heappush(self._held, (arrival_ms, self._number, Timed(arrival_ms, event)))

    def _open_sessions(self) -> None:
        """Begin sessions until the next event is due in time for the rate."""
        wanted_ms = self._begin_ms + int(self._passed / self._events_per_ms)
        while not self._waiting or self._waiting[0][0] > wanted_ms:
            session = self._sessions.next(wanted_ms)
            shift_ms = session[0].ms - wanted_ms if session else 0  # its first event is due then
            for timed in session:
                self._number += 1  # orders events of the same time
                ms = timed.ms - shift_ms
                heapq.heappush(self._waiting, (ms, self._number, timed._replace(ms=ms)))


def check_live(rate: float, late: float) -> None:
    """Raise ValueError for a rate outside 0 (excluded) to MAX_LIVE_RATE, or a share outside 0 to MAX_LATE."""
    if not 0 < rate <= MAX_LIVE_RATE:
        raise ValueError(
            f"the rate of live traffic must be more than 0 and at most {MAX_LIVE_RATE:,.0f} events/s "
            "(without a limit, and without pauses in the sessions: 0)"
        )
    if not 0 <= late <= MAX_LATE:
        raise ValueError(f"the share of late events must be between 0 and {MAX_LATE}")
