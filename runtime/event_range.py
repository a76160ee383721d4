"""Range of event time that commands and the API read, by default the last day."""

from datetime import UTC, datetime, timedelta

from schemas.event_time import EPOCH

CLOCK_AHEAD = timedelta(minutes=1)
"""Time after now that is read by default: a broker's clock may be ahead of this machine's."""
DEFAULT_HOURS = 24
MAX_DAYS = 40_000
MAX_HOURS = 900_000


def event_range(
    since: datetime | None, until: datetime | None, days: float | None, hours: float | None
) -> tuple[datetime, datetime]:
    """Return the ends of a range that begins at `since`, or that many days or hours before its end.

    Raises ValueError for more than one beginning.
    """
    if [since, days, hours].count(None) < 2:  # noqa: PLR2004  (one of three is given at most)
        raise ValueError("choose one of since, days and hours")
    now = datetime.now(UTC)
    length = timedelta(days=days) if days is not None else timedelta(hours=DEFAULT_HOURS if hours is None else hours)
    return since or max((until or now) - length, EPOCH), until or now + CLOCK_AHEAD
