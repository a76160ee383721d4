"""Options of a range of event time."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from tally.cli.options import parse_range

CLOCK_AHEAD = timedelta(minutes=1)
"""Time after now that is read by default: a broker's clock may be ahead of this machine's."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
"""Earliest time of an event."""
DEFAULT_HOURS = 24

EventsSince = Annotated[str | None, typer.Option("--since", help="Only events of this time or later.")]
EventsUntil = Annotated[str | None, typer.Option("--until", help="Only events before this time.")]
Days = Annotated[float | None, typer.Option("--days", help="The last days, instead of --since.", min=0.001, max=40_000)]
Hours = Annotated[float | None, typer.Option("--hours", help="The last hours. Default: 24.", min=0.001, max=900_000)]


def event_range(
    since: str | None, until: str | None, days: float | None, hours: float | None
) -> tuple[datetime, datetime]:
    """Return the range of event time that these options name. Raises BadParameter."""
    if [since, days, hours].count(None) < 2:  # noqa: PLR2004  (one of three is given at most)
        raise typer.BadParameter("choose one of --since, --days and --hours", param_hint="--since")
    begin, end = parse_range(since, until)
    end = end or datetime.now(UTC) + CLOCK_AHEAD
    length = timedelta(days=days) if days is not None else timedelta(hours=DEFAULT_HOURS if hours is None else hours)
    return begin or max(end - length, EPOCH), end
