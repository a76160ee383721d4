"""Statement of a report: its definition, with the parameters, columns, filters and order of a request."""

from collections.abc import Mapping
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import Any, NamedTuple

from readers.filter_fields import FilterError, FilterField, field_named
from readers.filter_sql import where
from readers.filters import Filter
from runtime.analytics import range_parameters
from runtime.clickhouse import BoundParameters
from runtime.errors import TallyError
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


def names_of(text: str | None) -> tuple[str, ...]:
    """Return the names in a text, separated by commas."""
    return tuple(filter(None, (name.strip() for name in (text or "").split(","))))


def report_named(name: str) -> Report:
    """Return the report of a name. Raises ReportError."""
    try:
        return REPORTS[name]
    except KeyError:
        raise ReportError("name", unknown_report(name)) from None


def unknown_report(name: str) -> str:
    """Return what is wrong with the name of a report that does not exist."""
    similar = get_close_matches(name[:40], REPORTS, 1)
    meant = f" (did you mean {similar[0]}?)" if similar else ""
    return f"{name[:40]!r} is not a report{meant}; known are {', '.join(REPORTS)}"


def grouped(report: Report, parameters: Mapping[str, ParameterValue | None]) -> Report:
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


def with_columns(report: Report, names: tuple[str, ...]) -> Report:
    """Return the report with these columns and its keys alone; with all if no names are given. Raises ReportError."""
    if not names:
        return report
    known = {column.name: column for column in report.columns}
    if unknown := [name for name in names if name not in known]:
        raise ReportError("columns", f"{unknown[0][:60]!r} is not a column; known are {', '.join(known)}")
    keys = [key for key in report.keys if key not in names]
    return report._replace(columns=tuple(known[name] for name in dict.fromkeys([*keys, *names])))


class ReportStatement(NamedTuple):
    """Statement of a report with its bound parameters. `rows`: number of rows to answer; it reads one more."""

    columns: str
    source: str
    """SELECT of the report's definition."""
    order: str
    values: dict[str, Any]
    parameters: Mapping[str, ParameterValue]
    """Parameters of the report's view, without namespace and range."""
    rows: int
    scope: ReportScope

    @property
    def sql(self) -> str:
        """Statement with placeholders for `values`."""
        return self.reading(f"({self.source})", self.rows + 1)

    def reading(self, source: str, rows: int) -> str:
        """Return the statement with another source and limit."""
        return f"SELECT {self.columns} FROM {source} ORDER BY {self.order} LIMIT {rows}"


def statement_of(settings: Settings, report: Report, request: ReportRequest) -> ReportStatement:
    """Return the statement of a request. Raises ReportError."""
    if request.since >= request.until:
        raise ReportError("until", f"{_shown(request.until)} is not later than since, {_shown(request.since)}")
    bind = BoundParameters()
    scope, parameters = _selection(settings, report, request, bind)
    ranged = range_parameters(request.namespace, request.since, request.until)
    return ReportStatement(
        ", ".join(report.all_columns()),
        report.sql(scope),
        _order(report, request.sort),
        {**ranged, **parameters, **bind.values},
        parameters,
        min(request.limit or settings.report_rows, settings.report_rows),
        scope,
    )


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


def _shown(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")
