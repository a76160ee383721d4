"""Reports: the SQL of their definitions, run with bound parameters and bounds."""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import Any, NamedTuple

from readers.filter_fields import FilterError, FilterField, field_named
from readers.filter_sql import where
from readers.filters import Filter
from readers.report_notes import cut_periods, groups_of, is_empty, reasons_for_nothing
from runtime.analytics import RangeTooLarge, range_errors, range_parameters, report_limits
from runtime.clickhouse import BoundParameters, ClickHouse
from runtime.errors import StatementRefused, TallyError
from runtime.faults.clickhouse import CLICKHOUSE_BAD_PATTERN
from runtime.settings import Settings
from schemas.analytics.base import EVERYTHING
from schemas.analytics.catalogue import REPORTS
from schemas.analytics.definition import ParameterValue, Report, ReportParameter, ReportScope

MAX_TEXT_BYTES = 1_024


class ReportError(TallyError):
    """Report that cannot be made as asked. `parameter` names the part of the request to change."""

    exit_code = 2

    def __init__(self, parameter: str, message: str) -> None:
        super().__init__(f"{parameter}: {message}")
        self.parameter = parameter
        self.message = message


class GroupMissing(ReportError):
    """Group of a comparison that has no executions in the range."""

    exit_code = 1


class ReportRequest(NamedTuple):
    """Report to make of a namespace's events from `since` up to, excluding, `until`, by event time."""

    name: str
    namespace: str
    since: datetime
    until: datetime
    parameters: Mapping[str, ParameterValue | None] = {}
    """Values by name; a value of None is as an absent one."""
    filters: Filter | None = None
    """Condition of the events that are read; None: all."""
    sort: str = ""
    """ReportColumn, with `:desc` for the largest first; empty: the report's own order."""
    limit: int | None = None
    """Maximum rows; None: TALLY_REPORT_ROWS."""
    columns: tuple[str, ...] = ()
    """Columns by name, in this order, after the report's keys; empty: all."""


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
        report = _with_columns(self.report, names)
        rows = [[record[name] for name in report.all_columns()] for record in self.records()]
        return self._replace(report=report, rows=rows)


async def run_report(settings: Settings, database: ClickHouse, request: ReportRequest) -> ReportResult:
    """Run a report. Raises ReportError for a request to change, Unavailable when ClickHouse cannot answer."""
    whole = _grouped(_report(request.name), request.parameters)
    chosen = _with_columns(whole, request.columns)
    read = whole if whole.notes or whole.total or whole.groups else chosen  # notes are of columns that are not chosen
    statement = _statement(settings, read, request)
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
    settings: Settings, database: ClickHouse, result: ReportResult, statement: "_Statement", *, is_nothing: bool
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


def names_of(text: str | None) -> tuple[str, ...]:
    """Return the names in a text, separated by commas."""
    return tuple(filter(None, (name.strip() for name in (text or "").split(","))))


def _report(name: str) -> Report:
    try:
        return REPORTS[name]
    except KeyError:
        raise ReportError("name", unknown_report(name)) from None


def unknown_report(name: str) -> str:
    """Return what is wrong with the name of a report that does not exist."""
    similar = get_close_matches(name[:40], REPORTS, 1)
    meant = f" (did you mean {similar[0]}?)" if similar else ""
    return f"{name[:40]!r} is not a report{meant}; known are {', '.join(REPORTS)}"


def _grouped(report: Report, parameters: Mapping[str, ParameterValue | None]) -> Report:
    """Return the report with a column for the values of a field if it is grouped by one."""
    by = next((each for each in report.parameters if each.name == report.groups_by), None)
    if by is None or parameters.get(by.name) in (None, *by.choices):
        return report
    if (added := report.field_column) is None:
        columns = [column._replace(unit="text") if column.unit == "time" else column for column in report.columns]
        return report._replace(columns=tuple(columns))
    key, *others = report.columns
    return report._replace(
        columns=(key, added, *others),
        keys=(*report.keys, added.name),
        order=f"{report.order}, {added.name}",
        chart=report.chart and report.chart._replace(series=added.name),
    )


def _with_columns(report: Report, names: tuple[str, ...]) -> Report:
    if not names:
        return report
    known = {column.name: column for column in report.columns}
    if unknown := [name for name in names if name not in known]:
        raise ReportError("columns", f"{unknown[0][:60]!r} is not a column; known are {', '.join(known)}")
    keys = [key for key in report.keys if key not in names]
    return report._replace(columns=tuple(known[name] for name in dict.fromkeys([*keys, *names])))


class _Statement(NamedTuple):
    """Statement of a report with its bound parameters. `rows`: number of rows to answer; it reads one more."""

    sql: str
    values: dict[str, Any]
    rows: int
    scope: ReportScope


def _statement(settings: Settings, report: Report, request: ReportRequest) -> _Statement:
    if request.since >= request.until:
        raise ReportError("until", f"{_shown(request.until)} is not later than since, {_shown(request.since)}")
    bind = BoundParameters()
    selection, values = _selection(settings, report, request, bind)
    rows = min(request.limit or settings.report_rows, settings.report_rows)
    sql = (
        f"SELECT {', '.join(report.all_columns())} FROM ({report.sql(selection)}) "
        f"ORDER BY {_order(report, request.sort)} LIMIT {rows + 1}"
    )
    ranged = range_parameters(request.namespace, request.since, request.until)
    return _Statement(sql, {**ranged, **values, **bind.values}, rows, selection)


def _selection(
    settings: Settings, report: Report, request: ReportRequest, bind: BoundParameters
) -> tuple[ReportScope, dict[str, ParameterValue]]:
    unknown = [
        name for name, value in request.parameters.items() if value is not None and name not in report.defaults()
    ]
    if unknown:
        raise ReportError(unknown[0], f"is not a parameter of the report {report.name}{_known(report)}")
    values: dict[str, ParameterValue] = {}
    group = ""
    for parameter in report.parameters:
        given = request.parameters.get(parameter.name)
        value = parameter.default if given is None else given
        if parameter.name == report.groups_by and value not in parameter.choices:
            group = _group(parameter.name, str(value), bind)
        values[parameter.name] = _checked(report, parameter, value, is_field=bool(group))
    condition = EVERYTHING
    if request.filters is not None:
        if not report.takes_condition:
            raise ReportError("where", f"the report {report.name} cannot be filtered: outcomes lack most fields")
        condition = where(request.filters, bind)
    return ReportScope(condition, group, settings.query_path), values


def _known(report: Report) -> str:
    names = ", ".join(parameter.name for parameter in report.parameters)
    return f"; it has {names}" if names else ", which has none"


def _checked(report: Report, parameter: ReportParameter, value: Any, *, is_field: bool) -> ParameterValue:
    if value is None:
        raise ReportError(parameter.name, f"is needed by the report {report.name}: {parameter.meaning}")
    if parameter.kind == "String":
        text = str(value)
        if len(text.encode(errors="replace")) > MAX_TEXT_BYTES:
            raise ReportError(parameter.name, f"is longer than {MAX_TEXT_BYTES} bytes")
        if parameter.choices and not is_field and text not in parameter.choices:
            raise ReportError(parameter.name, f"{text[:40]!r} is not one of {', '.join(parameter.choices)}")
        return text
    number = float(value)
    if not parameter.at_least <= number <= parameter.at_most:
        raise ReportError(parameter.name, f"must be from {parameter.at_least:,} to {parameter.at_most:,}")
    return number if parameter.kind == "Float64" else int(number)


def _group(parameter: str, name: str, bind: BoundParameters) -> str:
    """Return the expression of a field that events are grouped by, as a text. Raises ReportError."""
    try:
        field = field_named(name, [parameter])
    except FilterError as error:
        raise ReportError(parameter, str(error)) from None
    return _text_of(parameter, field, bind)


def _text_of(parameter: str, field: FilterField, bind: BoundParameters) -> str:
    if field.kind == "json" and field.path:
        path = ", ".join(bind.bind(key, "String") for key in field.path)
        return f"JSONExtract({field.column}, {path}, 'String')"
    if field.kind in ("text", "number"):
        return f"ifNull(toString({field.column}), '')"
    raise ReportError(parameter, f"{field.column} cannot be grouped by: choose a text, a number, or a key of metadata")


def _order(report: Report, sort: str) -> str:
    if not sort:
        return report.order
    column, _, direction = sort.partition(":")
    known = list(dict.fromkeys([*REPORTS[report.name].all_columns(), *report.all_columns()]))
    if column not in known or direction not in ("", "asc", "desc"):
        raise ReportError("sort", f"{sort[:60]!r} is not a column, or COLUMN:desc; known are {', '.join(known)}")
    return f"{column} {direction or 'asc'} NULLS LAST, {report.order}"


def _plain(value: Any) -> Any:
    """Return a value as it is answered: a number that is none is null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _shown(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")
