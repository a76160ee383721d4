"""Viewers over HTTP, which ask as the scripts of the pages do: live events with their cursor, and panels."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import quote

from benchmarks.console_web import Answer, Viewer, Website, browser_connections

LIVE = "/live/events"
RETRY_S = 3.0
"""Pause of the page after a failed look."""
MAX_ERRORS = 5
"""Different errors that are kept."""


@dataclass
class Looks:
    """Requests of viewers, and what the answers of live events said."""

    took_ms: list[float] = field(default_factory=list)
    failed: int = 0
    errors: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    """Events by outcome."""
    shown: int = 0
    skipped: int = 0

    def note(self, answer: Answer) -> None:
        """Note an answer."""
        self.took_ms.append(answer.ms)
        if answer.error:
            self.failed += 1
            if answer.error not in self.errors and len(self.errors) < MAX_ERRORS:
                self.errors.append(answer.error)

    def note_live(self, answer: Answer) -> str | None:
        """Note an answer of live events; return its cursor, None of a failed one."""
        self.note(answer)
        if answer.status != HTTPStatus.OK:
            return None
        found = json.loads(answer.body)
        self.counts.update(found["counts"])
        self.shown += found["shown"]
        self.skipped += found["skipped"]
        return str(found["cursor"])


async def follow(site: Website, looks: Looks, every_s: float, *, offset_s: float = 0.0) -> None:
    """Follow live events until cancelled, with a pause between an answer and the next request."""
    await asyncio.sleep(offset_s)
    cursor, viewer = "", Viewer(site)
    try:
        while True:
            following = looks.note_live(await viewer.get(f"{LIVE}?cursor={quote(cursor)}" if cursor else LIVE))
            cursor = following or cursor
            await asyncio.sleep(every_s if following else RETRY_S)
    finally:
        viewer.close()


async def watch(site: Website, looks: Looks, panels: Sequence[str], every_s: float, *, offset_s: float = 0.0) -> None:
    """Load all panels at the same time until cancelled, each with a pause after its answer."""

    async def reload(viewer: Viewer, path: str) -> None:
        while True:
            looks.note(await viewer.get(path))
            await asyncio.sleep(every_s)

    await asyncio.sleep(offset_s)
    with browser_connections(site) as connections:
        await asyncio.gather(*(reload(each, path) for each, path in zip(connections, panels, strict=False)))


@dataclass(frozen=True)
class LookPeriod:
    """Looks of a period: times in ms, and events of live looks."""

    seconds: float
    looks: int
    p50_ms: float
    p99_ms: float
    failed: int
    counted: int
    shown: int
    skipped: int


class PeriodMeter:
    """Meter of the looks since the last reading."""

    def __init__(self, looks: Looks) -> None:
        self._looks = looks
        self._begun = time.monotonic()
        self._before = (0, 0, 0, 0, 0)

    def read(self) -> LookPeriod:
        """Return the looks since the last reading."""
        looks, now = self._looks, time.monotonic()
        after = (len(looks.took_ms), looks.failed, looks.counts.total(), looks.shown, looks.skipped)
        number, failed, counted, shown, skipped = (new - old for new, old in zip(after, self._before, strict=True))
        took = sorted(looks.took_ms[len(looks.took_ms) - number :]) if number else [0.0]
        p50, p99 = took[len(took) // 2], took[int(len(took) * 0.99)]
        found = LookPeriod(now - self._begun, number, p50, p99, failed, counted, shown, skipped)
        self._begun, self._before = now, after
        return found
