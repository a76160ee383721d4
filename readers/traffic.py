"""Traffic of a namespace: its events by verdict over append time, and the last event of each type."""

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from readers.progress import ConsumerProgress
from readers.shared_answers import SharedAnswers
from readers.traffic_steps import HOUR_MS, MINUTE_MS, OVER_MS, StepCounts, TrafficSteps
from runtime.clickhouse import ClickHouse
from runtime.errors import StatementTimeout
from runtime.http.errors import unavailable
from runtime.http.in_flight import InFlightLimit
from runtime.settings import Settings
from schemas.event_time import from_epoch_ms, iso_ms

MAX_MINUTES = 7 * 24 * 60
MOST_MINUTES_BY_MINUTE = 180
"""Longest range with a point for each minute; a longer one has a point for each hour."""
SHARED_S = 2.0
"""Seconds for which callers share an answer."""
MAX_SHARED = 1_000


class TrafficQuery(BaseModel):
    """Range of append time."""

    model_config = ConfigDict(extra="forbid")

    minutes: int = Field(60, ge=1, le=MAX_MINUTES, description="length of the range, which ends now, in minutes")


class TrafficCounts(BaseModel):
    """Number of events by verdict. A moved event also counts by the verdict of its copy."""

    stored: int = 0
    duplicate: int = 0
    rejected: int = 0
    deleted: int = 0
    moved: int = 0


class TrafficPoint(TrafficCounts):
    """Events of one step of time."""

    at: datetime = Field(description="beginning of the step")


class LastEvent(BaseModel):
    """Newest stored event of a type."""

    interaction_type: str
    timestamp: datetime
    age_ms: int


class TrafficResponse(BaseModel):
    """Events of the namespace by append time. The last step is not over."""

    since: datetime
    until: datetime
    step_ms: int
    points: list[TrafficPoint] = Field(description="one for each step, the oldest first, also without events")
    totals: TrafficCounts
    last_event: list[LastEvent] = Field(description="of each type with events in the range, the newest first")


class TrafficRange(NamedTuple):
    """Range of append time in ms since 1970, divided into steps; the last one contains the present."""

    since_ms: int
    now_ms: int
    step_ms: int

    @classmethod
    def last(cls, minutes: int, now_ms: int) -> "TrafficRange":
        """Return the range of the last minutes, extended to the beginning of a step."""
        step_ms = MINUTE_MS if minutes <= MOST_MINUTES_BY_MINUTE else HOUR_MS
        since_ms = now_ms - minutes * MINUTE_MS
        return cls(since_ms - since_ms % step_ms, now_ms, step_ms)

    @property
    def steps(self) -> range:
        """Beginnings of the steps."""
        return range(self.since_ms, self.now_ms - self.now_ms % self.step_ms + self.step_ms, self.step_ms)

    def parts(self, over_ms: int) -> Iterator[range]:
        """Divide the range into steps to count: of hours, the last ones of those that are not over are minutes.

        Otherwise each look at a day would count the present hour.
        """
        steps, minutes = self.steps, MOST_MINUTES_BY_MINUTE * MINUTE_MS
        first_ms = max(steps.start, over_ms - over_ms % HOUR_MS) if self.step_ms == HOUR_MS else steps.start
        if steps.stop - first_ms > minutes + HOUR_MS:
            yield steps
            return
        if first_ms > steps.start:
            yield range(steps.start, first_ms, HOUR_MS)
        yield range(first_ms, steps.stop, MINUTE_MS)


class TrafficReader:
    """Traffic of one process, bounded in number and shared between callers."""

    def __init__(
        self, settings: Settings, database: ClickHouse, progress: ConsumerProgress, limit: InFlightLimit
    ) -> None:
        self._steps = TrafficSteps(settings, database)
        self._progress = progress
        self._limit = limit
        self._shared = SharedAnswers[tuple[str, int], dict[str, Any]](SHARED_S, MAX_SHARED)

    async def traffic(self, namespace: str, minutes: int) -> dict[str, Any]:
        """Return the body of a TrafficResponse. Raises ApiError 503, Unavailable."""
        with self._limit.slot():
            return await self._shared.get((namespace, minutes), lambda: self._read(namespace, minutes))

    async def _read(self, namespace: str, minutes: int) -> dict[str, Any]:
        span = TrafficRange.last(minutes, int(time.time() * 1000))
        over_ms = self._over_ms(span.now_ms)
        found: dict[int, StepCounts] = {}
        try:
            for part in span.parts(over_ms):
                found |= await self._steps.counts(namespace, part, over_ms)
        except StatementTimeout:
            message = "the traffic takes longer than TALLY_LIST_TIMEOUT_MS: ask for fewer minutes"
            raise unavailable(message) from None
        return _body(span, found)

    def _over_ms(self, now_ms: int) -> int:
        """Return the time before which no event can get its outcome any more."""
        settled_ms = 0 if self._progress.is_stale else self._progress.settled_ms
        return min(now_ms - OVER_MS, settled_ms or now_ms)


def _body(span: TrafficRange, found: Mapping[int, StepCounts]) -> dict[str, Any]:
    verdicts = tuple(TrafficCounts.model_fields)
    points = {at_ms: dict.fromkeys(verdicts, 0) for at_ms in span.steps}
    last_ms: dict[str, int] = defaultdict(int)
    for at_ms, counts in found.items():
        point = points[at_ms - at_ms % span.step_ms]
        for verdict, events in counts.by_verdict.items():
            point[verdict] += events
        for name, newest_ms in counts.last_ms.items():
            last_ms[name] = max(last_ms[name], newest_ms)
    newest_first = sorted(last_ms.items(), key=lambda each: (-each[1], each[0]))
    return {
        "since": iso_ms(from_epoch_ms(span.since_ms)),
        "until": iso_ms(from_epoch_ms(span.now_ms)),
        "step_ms": span.step_ms,
        "points": [{"at": iso_ms(from_epoch_ms(at_ms)), **counts} for at_ms, counts in points.items()],
        "totals": {verdict: sum(counts[verdict] for counts in points.values()) for verdict in verdicts},
        "last_event": [
            {
                **{"interaction_type": name, "timestamp": iso_ms(from_epoch_ms(newest_ms))},
                "age_ms": max(0, span.now_ms - newest_ms),
            }
            for name, newest_ms in newest_first
        ],
    }
