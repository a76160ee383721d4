"""Scope of a report as text: its range, and the conditions of its events."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from readers.filter_words import filters_text

if TYPE_CHECKING:
    from readers.report_statement import ReportRequest


def scope_text(request: "ReportRequest") -> str:
    """Return namespace, range and filters. A range that ends in the future is shown up to now."""
    filters = filters_text(request.filters) if request.filters else ""
    return f"{request.namespace}, {range_text(request)}{f', where {filters}' if filters else ''}"


def range_text(request: "ReportRequest") -> str:
    """Return the range in minutes, up to now at the latest: a default range ends later, for clocks that are ahead."""
    until = max(request.since, min(request.until, datetime.now(UTC)))
    return f"{_minute(request.since)} to {_minute(until)} UTC"


def _minute(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M}"
