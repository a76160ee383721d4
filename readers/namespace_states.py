"""States of namespaces: whether their events arrive as usual."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from pydantic import BaseModel, Field

from readers.progress import ConsumerProgress
from readers.silence import DAYS, LATEST_MS, WINDOW_MS, Assessment, WindowCounts, assess
from readers.verdict_sql import RANGE_SETTINGS, select_verdicts
from runtime.clickhouse import BoundParameters, ClickHouse
from runtime.errors import StatementTimeout
from runtime.http.errors import unavailable
from runtime.http.in_flight import InFlightLimit
from runtime.settings import Settings
from schemas.event_time import from_epoch_ms, iso_ms, to_epoch_ms
from schemas.tables import INTERACTIONS

MAX_NAMESPACES = 100
SHARED_S, MAX_SHARED_S = 10.0, 120.0
"""Least and most seconds for which callers share the state of a namespace."""
MAX_BUSY_SHARE = 0.05
"""Part of the time that states, and baselines, may take: those that took long are kept for longer, within bounds."""
BASELINE_S, MAX_BASELINE_S = 300.0, 3_600.0
"""Least and most seconds for which a baseline is kept: it reads DAYS windows, and changes slowly."""
MAX_KEPT = 10_000
_DAY_MS = 86_400_000
_LAST_IDS = 100
"""Rows with the highest ids among which the last event of a namespace without recent events is looked for."""


class NamespaceState(BaseModel):
    """State of a namespace. Windows are of 15 minutes and end at `as_of`. Null: unknown."""

    namespace: str
    last_event: datetime | None = Field(description="append time of the newest event; null: there is none")
    age_ms: int | None = Field(description="age of the newest event")
    events_15m: int = Field(description="events with an outcome, without moved ones")
    expected_15m: float | None = Field(description="mean of the same 15 minutes of the days before, a week at most")
    silent: bool = Field(description="no event arrives, although events are usual at this time")
    duplicate_share: float | None
    rejected_share: float | None
    expected_duplicate_share: float | None
    expected_rejected_share: float | None
    problems: list[str]
    as_of: datetime = Field(description="time up to which every event has an outcome, or now if that is unknown")


class NamespaceList(BaseModel):
    """States of the namespaces of the caller's key, in its order."""

    namespaces: list[NamespaceState]
    truncated: bool = Field(description=f"whether the key has more than {MAX_NAMESPACES} namespaces")
    notes: list[str] = Field(description="reasons for which something is not judged")


class _RecentEvents(NamedTuple):
    """Counts by number of steps before the end, and the time of the newest event in ms since 1970, 0 for none."""

    by_step: Mapping[int, WindowCounts]
    last_ms: int


class NamespaceStates:
    """States of one process, each computed once for all callers."""

    def __init__(
        self, settings: Settings, database: ClickHouse, progress: ConsumerProgress, limit: InFlightLimit
    ) -> None:
        self._limits = {"max_execution_time": settings.list_timeout_ms / 1000, **RANGE_SETTINGS}
        self._database = database
        self._progress = progress
        self._limit = limit
        self._lock = asyncio.Lock()
        self._states: dict[str, tuple[float, dict[str, Any]]] = {}
        self._baselines: dict[str, tuple[float, Sequence[WindowCounts]]] = {}

    async def of(self, namespaces: Sequence[str]) -> dict[str, Any]:
        """Return the body of a NamespaceList. Raises ApiError 503, Unavailable."""
        chosen = namespaces[:MAX_NAMESPACES]
        with self._limit.slot():
            if _old(chosen, self._states):
                async with self._lock:
                    if old := _old(chosen, self._states):
                        await self._compute(old)
                        _bound(self._states, chosen)
            found = [self._states[name][1] for name in chosen]
        now_ms = int(time.time() * 1000)
        return {
            "namespaces": [_with_age(state, now_ms) for state in found],
            "truncated": len(namespaces) > MAX_NAMESPACES,
            "notes": [] if self._settled_ms() else ["silence is not judged: the progress of the workers is unknown"],
        }

    def _settled_ms(self) -> int:
        """Return the time up to which every event has an outcome; 0 while unknown."""
        return 0 if self._progress.is_stale else self._progress.settled_ms

    async def _compute(self, names: Sequence[str]) -> None:
        settled_ms = self._settled_ms()
        until_ms = settled_ms or int(time.time() * 1000)
        if old := _old(names, self._baselines):
            begun = time.monotonic()
            read = await self._read(old, until_ms, range(1, DAYS + 1), _DAY_MS)
            kept_until = _kept_until(begun, BASELINE_S, MAX_BASELINE_S)
            for name in old:
                days = [read[name].by_step.get(day, WindowCounts()) for day in range(1, DAYS + 1)]
                self._baselines[name] = (kept_until, days)
        begun = time.monotonic()
        recent = await self._read(names, until_ms, range(1), LATEST_MS)
        quiet = [name for name in names if not recent[name].last_ms]
        last = {**{name: recent[name].last_ms for name in names}, **await self._last_stored(quiet)}
        shared_until = _kept_until(begun, SHARED_S, MAX_SHARED_S)
        for name in names:
            silence_ms = max(0, until_ms - last[name]) if settled_ms and last[name] else None
            steps = [recent[name].by_step.get(step, WindowCounts()) for step in range(WINDOW_MS // LATEST_MS)]
            counts = WindowCounts.sum_of(steps)
            assessed = assess(counts, self._baselines[name][1], silence_ms, steps[0])
            state = _described(name, counts, assessed, last[name], until_ms)
            self._states[name] = (shared_until, state)
        _bound(self._baselines, names)

    async def _read(
        self, names: Sequence[str], until_ms: int, days: range, step_ms: int
    ) -> Mapping[str, _RecentEvents]:
        """Count the events of the windows of these numbers of days before, by step of time before `until_ms`.

        Events after `until_ms` are only newest.
        """
        bind = BoundParameters()
        windows = []
        for day in days:
            end_ms = until_ms - day * _DAY_MS
            begin = bind.bind(from_epoch_ms(max(0, end_ms - WINDOW_MS)), "Int64")
            end = f" AND timestamp < {bind.bind(from_epoch_ms(end_ms), 'Int64')}" if day else ""
            windows.append(f"(timestamp >= {begin}{end})")
        condition = f"namespace IN {bind.bind(list(names), 'Array(String)')} AND ({' OR '.join(windows)})"
        before_ms = f"({bind.bind(until_ms - 1, 'Int64')} - toUnixTimestamp64Milli(timestamp))"
        rows = await self._rows(
            select_verdicts(condition, f"if({before_ms} < 0, -1, intDiv({before_ms}, {step_ms}))"), bind
        )
        counts: dict[str, dict[int, WindowCounts]] = defaultdict(dict)
        last_ms = dict.fromkeys(names, 0)
        for name, slot, verdict, events, last_at in rows:
            last_ms[name] = max(last_ms[name], to_epoch_ms(last_at))
            if verdict != "moved":
                before = counts[name].get(slot, WindowCounts())
                counts[name][slot] = WindowCounts(
                    before.events + events,
                    before.duplicates + events * (verdict == "duplicate"),
                    before.rejected + events * (verdict == "rejected"),
                )
        return {name: _RecentEvents(counts[name], last_ms[name]) for name in names}

    async def _last_stored(self, names: Sequence[str]) -> Mapping[str, int]:
        """Return the append time of the newest stored event, as far as ids tell: they sort by time."""
        if not names:
            return {}
        bind = BoundParameters()
        selects = [
            f"SELECT {number}, max(timestamp) FROM (SELECT timestamp FROM {INTERACTIONS} "
            f"WHERE namespace = {bind.bind(name, 'String')} ORDER BY interaction_id DESC LIMIT {_LAST_IDS})"
            for number, name in enumerate(names)
        ]
        rows = await self._rows(" UNION ALL ".join(selects), bind)
        return {names[number]: to_epoch_ms(last_at) for number, last_at in rows}

    async def _rows(self, sql: str, bind: BoundParameters) -> Sequence[Sequence[Any]]:
        try:
            return await self._database.rows(sql, bind.values, limits=self._limits)
        except StatementTimeout:
            raise unavailable("the state of namespaces takes longer than TALLY_LIST_TIMEOUT_MS") from None


def _kept_until(begun: float, least_s: float, most_s: float) -> float:
    """Return the time until which something is kept whose computation has begun at a time and ends now."""
    now = time.monotonic()
    return now + min(most_s, max(least_s, (now - begun) / MAX_BUSY_SHARE))


def _described(name: str, counts: WindowCounts, assessed: Assessment, last_ms: int, until_ms: int) -> dict[str, Any]:
    """Return the body of a NamespaceState without `age_ms`."""
    return {
        "namespace": name,
        "last_event": iso_ms(from_epoch_ms(last_ms)) if last_ms else None,
        "age_ms": None,
        "events_15m": counts.events,
        "expected_15m": assessed.expected,
        "silent": assessed.silent,
        "duplicate_share": assessed.duplicate_share,
        "rejected_share": assessed.rejected_share,
        "expected_duplicate_share": assessed.expected_duplicate_share,
        "expected_rejected_share": assessed.expected_rejected_share,
        "problems": list(assessed.problems),
        "as_of": iso_ms(from_epoch_ms(until_ms)),
    }


def _with_age(state: dict[str, Any], now_ms: int) -> dict[str, Any]:
    last = state["last_event"]
    return state if last is None else {**state, "age_ms": max(0, now_ms - to_epoch_ms(datetime.fromisoformat(last)))}


def _old(names: Sequence[str], kept: Mapping[str, tuple[float, object]]) -> list[str]:
    """Return the names, each once, of which nothing current is kept."""
    now = time.monotonic()
    return [name for name in dict.fromkeys(names) if name not in kept or kept[name][0] <= now]


def _bound(kept: dict[str, tuple[float, Any]], names: Sequence[str]) -> None:
    """Drop old entries, and all but those of `names` if there are still too many."""
    now = time.monotonic()
    for name in [name for name, (until, _) in kept.items() if until <= now and name not in names]:
        del kept[name]
    if len(kept) > MAX_KEPT:
        for name in kept.keys() - set(names):
            del kept[name]
