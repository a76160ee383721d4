"""Bound on the bytes and events that the collector holds at a time. Excess is refused before it is read."""

from collections.abc import Iterator
from contextlib import contextmanager

from runtime.http.errors import unavailable
from runtime.metrics import UNACKNOWLEDGED
from runtime.settings import Settings


class InFlightBudget:
    """Budget of bytes and events of requests in flight."""

    def __init__(self, settings: Settings) -> None:
        self._most_bytes = settings.collector_in_flight_bytes
        self._most_events = settings.collector_in_flight
        self._bytes = self._events = 0

    @contextmanager
    def reserve(self) -> Iterator["Reservation"]:
        """Open the reservation of one request, and release it at the end."""
        reservation = Reservation(self)
        try:
            yield reservation
        finally:
            reservation.release()

    def take(self, events: int, size: int) -> None:
        """Take capacity for events and bytes. Raises ApiError 503 when it is exhausted."""
        if self._bytes + size > self._most_bytes:
            raise unavailable("too many bytes wait for Kafka (TALLY_COLLECTOR_IN_FLIGHT_BYTES): retry shortly")
        if self._events + events > self._most_events:
            raise unavailable("too many events wait for Kafka (TALLY_COLLECTOR_IN_FLIGHT): retry shortly")
        self._bytes += size
        self._events += events
        UNACKNOWLEDGED.inc(events)

    def give_back(self, events: int, size: int) -> None:
        """Give capacity back."""
        self._bytes -= size
        self._events -= events
        UNACKNOWLEDGED.dec(events)


class Reservation:
    """Capacity reserved by one request."""

    def __init__(self, budget: InFlightBudget) -> None:
        self._budget = budget
        self.bytes = 0
        self.events = 0

    def take(self, size: int = 0, *, events: int = 0) -> None:
        """Reserve bytes, or capacity for events. Raises ApiError 503."""
        self._budget.take(events, size)
        self.bytes += size
        self.events += events

    def release(self) -> None:
        """Give everything back, before the request ends: Kafka has its events. Safe to call twice."""
        self._budget.give_back(self.events, self.bytes)
        self.bytes = self.events = 0
