"""Ranges of time that a viewer chooses."""

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


class ChosenRange(NamedTuple):
    """Range of a viewer: the last hours, or from `since` until `until`."""

    since: datetime
    until: datetime
    hours: str
    """One of HOURS; empty for a range with ends."""
    problem: str = ""

    @classmethod
    def of(cls, query: Mapping[str, str], default_hours: str = "24") -> "ChosenRange":
        """Read the range of a request. A time that cannot be read is named in `problem`."""
        now = datetime.now(UTC)
        texts = [query.get(name, "").strip()[:64] for name in ("since", "until")]
        since, until = map(parse_time, texts)
        for text, moment in zip(texts, (since, until), strict=True):
            if text and moment is None:
                problem = f"{text} is not a time: write 2026-01-31 or 2026-01-31T08:00, in UTC, or with an offset"
                return cls(now - timedelta(days=1), now, "", problem)
        if since is not None:
            return cls(since, until or now, "")
        hours = query.get("hours", default_hours)
        hours = hours if hours in HOURS else default_hours
        end = until or now
        return cls(_earlier(end, timedelta(hours=float(hours))), end, "" if until else hours)

    def as_query(self) -> dict[str, str]:
        """Return the range as parameters of the API."""
        return {"since": iso(self.since), "until": iso(self.until)}

    def before(self) -> dict[str, str]:
        """Return the range of the same length before it."""
        return {"since": iso(_earlier(self.since, self.until - self.since)), "until": iso(self.since)}


def _earlier(moment: datetime, length: timedelta) -> datetime:
    """Return the time that is this long before a time; the first one of the calendar if none is."""
    try:
        return moment - length
    except OverflowError:
        return datetime.min.replace(tzinfo=UTC)
