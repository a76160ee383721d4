"""Traffic of a namespace: its events by verdict over append time, and the last event of each type."""

import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from readers.shared_answers import SharedAnswers
from readers.verdict_sql import RANGE_SETTINGS, select_verdicts
from runtime.clickhouse import BoundParameters, ClickHouse
from runtime.errors import StatementTimeout
from runtime.http.errors import unavailable
from runtime.http.in_flight import InFlightLimit
from runtime.settings import Settings
from schemas.event_time import from_epoch_ms, iso_ms, to_epoch_ms
from schemas.tables import INTERACTIONS

MINUTE_MS, HOUR_MS = 60_000, 3_600_000
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
        return range(self.since_ms, self.now_ms + 1, self.step_ms)


class TrafficReader:
    """Traffic of one process, bounded in number and shared between callers."""

    def __init__(self, settings: Settings, database: ClickHouse, limit: InFlightLimit) -> None:
        self._limits = {"max_execution_time": settings.list_timeout_ms / 1000, **RANGE_SETTINGS}
        self._database = database
        self._limit = limit
        self._shared = SharedAnswers[tuple[str, int], dict[str, Any]](SHARED_S, MAX_SHARED)

    async def traffic(self, namespace: str, minutes: int) -> dict[str, Any]:
        """Return the body of a TrafficResponse. Raises ApiError 503, Unavailable."""
        with self._limit.slot():
            return await self._shared.get((namespace, minutes), lambda: self._read(namespace, minutes))

    async def _read(self, namespace: str, minutes: int) -> dict[str, Any]:
        span = TrafficRange.last(minutes, int(time.time() * 1000))
        bind = BoundParameters()
        end_ms = span.steps[-1] + span.step_ms
        condition = (
            f"namespace = {bind.bind(namespace, 'String')} "
            f"AND timestamp >= {bind.bind(from_epoch_ms(span.since_ms), 'Int64')} "
            f"AND timestamp < {bind.bind(from_epoch_ms(end_ms), 'Int64')}"
        )
        types = (
            f"SELECT type, max(timestamp) AS last_at FROM {INTERACTIONS} FINAL ARRAY JOIN interaction_type AS type "
            f"WHERE {condition} GROUP BY type ORDER BY last_at DESC, type"
        )
        slot = f"intDiv(toUnixTimestamp64Milli(timestamp), {span.step_ms:d})"
        counted = await self._rows(select_verdicts(condition, slot), bind)
        return _body(span, counted, await self._rows(types, bind))

    async def _rows(self, sql: str, bind: BoundParameters) -> Sequence[Sequence[Any]]:
        try:
            return await self._database.rows(sql, bind.values, limits=self._limits)
        except StatementTimeout:
            message = "the traffic takes longer than TALLY_LIST_TIMEOUT_MS: ask for fewer minutes"
            raise unavailable(message) from None


def _body(span: TrafficRange, counted: Sequence[Sequence[Any]], types: Sequence[Sequence[Any]]) -> dict[str, Any]:
    verdicts = tuple(TrafficCounts.model_fields)
    points = {at_ms: dict.fromkeys(verdicts, 0) for at_ms in span.steps}
    for _, slot, verdict, events, _ in counted:
        points[slot * span.step_ms][verdict] += int(events)
    return {
        "since": iso_ms(from_epoch_ms(span.since_ms)),
        "until": iso_ms(from_epoch_ms(span.now_ms)),
        "step_ms": span.step_ms,
        "points": [{"at": iso_ms(from_epoch_ms(at_ms)), **counts} for at_ms, counts in points.items()],
        "totals": {verdict: sum(counts[verdict] for counts in points.values()) for verdict in verdicts},
        "last_event": [
            {
                **{"interaction_type": name, "timestamp": iso_ms(last_at)},
                "age_ms": max(0, span.now_ms - to_epoch_ms(last_at)),
            }
            for name, last_at in types
        ],
    }
