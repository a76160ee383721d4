"""Reports: their statements, run within bounds, and remarks about the rows."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from readers.report_notes import cut_periods, groups_of, is_empty, reasons_for_nothing
from readers.report_statement import (
    GroupMissing,
    ReportError,
    ReportRequest,
    ReportStatement,
    grouped,
    report_named,
    statement_of,
    with_columns,
)
from runtime.analytics import RangeTooLarge, range_errors, report_limits
from runtime.clickhouse import ClickHouse
from runtime.errors import StatementRefused
from runtime.faults.clickhouse import CLICKHOUSE_BAD_PATTERN
from runtime.settings import Settings
from schemas.analytics.definition import Report

MAX_TEXT_BYTES = 1_024


class ReportResult(NamedTuple):
    """Rows of a report. `is_truncated`: the limit left rows out."""

    report: Report
    request: ReportRequest
    rows: Sequence[Sequence[Any]]
    is_truncated: bool
    notes: Sequence[str] = ()
    """Remarks about the rows that a reader must not miss."""
    is_nothing: bool = False
    """Whether no event was found; the notes say why."""

    @property
    def columns(self) -> list[str]:
        """Names of all columns."""
        return self.report.all_columns()

    def records(self) -> list[dict[str, Any]]:
        """Return the rows as objects."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]

    def first(self, rows: int | None) -> "ReportResult":
        """Return the result with the first rows alone; None: with all."""
        return self._replace(
            rows=self.rows[:rows], is_truncated=self.is_truncated or len(self.rows) > (rows or math.inf)
        )

    def with_columns(self, names: tuple[str, ...]) -> "ReportResult":
        """Return the result with these columns and the keys alone; with all if no names are given.

        Raises ReportError.
        """
        report = with_columns(self.report, names)
        rows = [[record[name] for name in report.all_columns()] for record in self.records()]
        return self._replace(report=report, rows=rows)


async def run_report(settings: Settings, database: ClickHouse, request: ReportRequest) -> ReportResult:
    """Run a report. Raises ReportError for a request to change, Unavailable when ClickHouse cannot answer."""
    whole = grouped(report_named(request.name), request.parameters)
    chosen = with_columns(whole, request.columns)
    read = whole if whole.notes or whole.total or whole.groups else chosen  # notes are of columns that are not chosen
    statement = statement_of(settings, read, request)
    try:
        with range_errors(settings, "the report"):
            found = await database.rows(statement.sql, statement.values, limits=report_limits(settings))
            rows = [[_plain(value) for value in row] for row in found[: statement.rows]]
            result = ReportResult(read, request, rows, is_truncated=len(found) > statement.rows)
            is_nothing = is_empty(read, result.records())
            notes = await _notes(settings, database, result, statement, is_nothing=is_nothing)
    except RangeTooLarge as error:
        raise ReportError("since, until", str(error)) from None
    except StatementRefused as error:
        if error.code == CLICKHOUSE_BAD_PATTERN:
            raise ReportError("where", "the pattern is not a valid RE2 regular expression") from None
        raise
    return result.with_columns(request.columns)._replace(notes=notes, is_nothing=is_nothing)


async def _notes(
    settings: Settings, database: ClickHouse, result: ReportResult, statement: ReportStatement, *, is_nothing: bool
) -> Sequence[str]:
    """Return remarks about the rows. Raises GroupMissing."""
    report, records = result.report, result.records()
    missing = [name for name, size in report.groups.items() if not any(record[size] for record in records)]
    if missing:
        group = statement.scope.group or "ifNull(retriever_id, '')"
        groups = await groups_of(settings, database, group, statement.scope.condition, statement.values)
        if groups:
            raise _group_missing(missing[0], result.request, groups)
    if missing or is_nothing:
        return await reasons_for_nothing(settings, database, result.request)
    return [*(report.notes(records) if report.notes else ()), *cut_periods(result)]


def _group_missing(parameter: str, request: ReportRequest, groups: Sequence[str]) -> GroupMissing:
    field = request.parameters.get("of") or "retriever_id"
    name = str(request.parameters[parameter])
    return GroupMissing(parameter, f"{name[:60]!r} has no executions in this range; {field} has {', '.join(groups)}")


def _plain(value: Any) -> Any:
    """Return a value as it is answered: a number that is none is null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
