"""Reports of tests."""

from datetime import UTC, datetime, timedelta
from typing import Any

from readers.report_statement import ReportRequest
from readers.reports import ReportResult, run_report
from tests.lab import Lab

BEGIN, END = datetime(1970, 1, 1, tzinfo=UTC), datetime.now(UTC) + timedelta(hours=1)


async def made(  # noqa: PLR0913  (as those of a request)
    lab: Lab,
    name: str,
    namespace: str = "default",
    *,
    since: datetime = BEGIN,
    until: datetime = END,
    filters: Any = None,
    sort: str = "",
    limit: int | None = None,
    columns: tuple[str, ...] = (),
    **parameters: Any,
) -> ReportResult:
    """Make a report over all events, unless the range is given."""
    request = ReportRequest(name, namespace, since, until, parameters, filters, sort, limit, columns)
    return await run_report(lab.settings, lab.database, request)


async def rows_of(lab: Lab, name: str, namespace: str = "default", **options: Any) -> list[dict[str, Any]]:
    """Return its rows as objects."""
    return (await made(lab, name, namespace, **options)).records()


async def only(lab: Lab, name: str, *columns: str, **options: Any) -> list[tuple[Any, ...]]:
    """Return its rows with these columns alone."""
    return [tuple(row[column] for column in columns) for row in await rows_of(lab, name, **options)]
