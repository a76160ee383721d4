"""Ranges of time that a viewer chooses."""

import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from console.text import iso, parse_time

HOURS = {
    "0.25": "last 15 minutes",
    "1": "last hour",
    "24": "last day",
    "168": "last 7 days",
    "720": "last 30 days",
    "8760": "last year",
}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MIN_LENGTH, MAX_HOURS, MAX_DAYS = 0.001, 900_000, 40_000
"""Shortest range in hours or days, and longest ones, as the API accepts them. The longest reach back beyond 1970."""
_ONE_OF = "choose one of from, hours and days"


class ChosenRange(NamedTuple):
    """Range of a viewer: the last hours, or from `since` until `until`."""

    since: datetime
    until: datetime
    hours: str
    """Number of hours, often one of HOURS; empty for a range with ends."""
    problem: str = ""

    @classmethod
    def of(cls, query: Mapping[str, str], default_hours: str = "24") -> "ChosenRange":
        """Read the range of a request. A time or length that cannot be read is named in `problem`."""
        now = datetime.now(UTC)
        given = {name: query.get(name, "").strip()[:64] for name in ("since", "until", "hours", "days")}
        since, until = (parse_time(given[name]) for name in ("since", "until"))
        for text, moment in ((given["since"], since), (given["until"], until)):
            if text and moment is None:
                problem = f"{text} is not a time: write 2026-01-31 or 2026-01-31T08:00, in UTC, or with an offset"
                return cls(now - timedelta(days=1), now, "", problem)
        if since is not None:
            problem = _ONE_OF if given["hours"] or given["days"] else ""
            return cls(since, until or now, "", problem)
        hours, problem = _hours_of(given["hours"], given["days"], default_hours)
        end = until or now
        return cls(_earlier(end, timedelta(hours=float(hours))), end, "" if until else hours, problem)

    def choices(self) -> Mapping[str, str]:
        """Return the names of ranges to choose from by their hours, this one included."""
        if not self.hours or self.hours in HOURS:
            return HOURS
        return HOURS | {self.hours: f"last {self.hours} hours"}

    def as_query(self) -> dict[str, str]:
        """Return the range as parameters of the API."""
        return {"since": iso(self.since), "until": iso(self.until)}

    def before(self) -> dict[str, str]:
        """Return the range of the same length before it."""
        return {"since": iso(_earlier(self.since, self.until - self.since)), "until": iso(self.since)}


def _hours_of(hours: str, days: str, default_hours: str) -> tuple[str, str]:
    """Return a length in hours, and what is wrong with it."""
    if not hours and not days:
        return default_hours, ""
    if hours and days:
        return default_hours, _ONE_OF
    text, unit, most, factor = (hours, "hours", MAX_HOURS, 1) if hours else (days, "days", MAX_DAYS, 24)
    try:
        length = float(text)
    except ValueError:
        length = math.nan
    if not MIN_LENGTH <= length <= most:
        return default_hours, f"{text} is not a number of {unit}: write one from {MIN_LENGTH} to {most:,}"
    return f"{min(length * factor, MAX_HOURS):.10g}", ""


def _earlier(moment: datetime, length: timedelta) -> datetime:
    """Return the time that is this long before a time, at the earliest 1970, where the API's times begin.

    A time before that, which the API refuses, is cut at the first one of the calendar.
    """
    first = EPOCH if moment >= EPOCH else datetime.min.replace(tzinfo=UTC)
    try:
        return max(moment - length, first)
    except OverflowError:
        return first
