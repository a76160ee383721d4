"""Options of a range of event time."""

from datetime import datetime
from typing import Annotated

import typer

from runtime.event_range import MAX_DAYS, MAX_HOURS
from runtime.event_range import event_range as range_of
from tally.cli.options import parse_range

EventsSince = Annotated[str | None, typer.Option("--since", help="Only events of this time or later.")]
EventsUntil = Annotated[str | None, typer.Option("--until", help="Only events before this time.")]
Days = Annotated[
    float | None, typer.Option("--days", help="The last days, instead of --since.", min=0.001, max=MAX_DAYS)
]
Hours = Annotated[float | None, typer.Option("--hours", help="The last hours. Default: 24.", min=0.001, max=MAX_HOURS)]


def event_range(
    since: str | None, until: str | None, days: float | None, hours: float | None
) -> tuple[datetime, datetime]:
    """Return the range of event time that these options name. Raises BadParameter."""
    begin, end = parse_range(since, until)
    try:
        return range_of(begin, end, days, hours)
    except ValueError:
        raise typer.BadParameter("choose one of --since, --days and --hours", param_hint="--since") from None
