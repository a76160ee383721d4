"""HTTP requests of reports: the list of definitions, and one report as JSON."""

from datetime import datetime
from typing import Any

from fastapi import Response
from pydantic import BaseModel, ConfigDict, Field

from readers.filter_errors import read_filter_parameter
from readers.filter_words import filters_text
from readers.report_sql import report_sql
from readers.report_statement import ReportError, ReportRequest, names_of, unknown_report
from readers.reports import ReportResult, run_report
from runtime.clickhouse import ClickHouse
from runtime.event_range import MAX_DAYS, MAX_HOURS, event_range
from runtime.http.answer import json_answer
from runtime.http.errors import ApiError, invalid, problem
from runtime.http.in_flight import InFlightLimit
from runtime.http.times import Time
from runtime.settings import Settings
from schemas.analytics.catalogue import REPORTS
from schemas.analytics.definition import Chart, ChartKind, Report, ReportColumn
from schemas.event_time import iso_ms


class ReportQuery(BaseModel):
    """Report over a range of event time, by default the last day. Each report has some of the further parameters."""

    model_config = ConfigDict(extra="forbid")

    since: Time | None = Field(None, description="earliest event time, inclusive, ISO 8601")
    until: Time | None = Field(None, description="event time before which events are read, ISO 8601")
    days: float | None = Field(None, ge=0.001, le=MAX_DAYS, description="the last days, instead of since")
    hours: float | None = Field(None, ge=0.001, le=MAX_HOURS, description="the last hours, instead of since")
    filters: str | None = Field(None, description="filters of the list call as JSON", examples=['{"user_id": "ada"}'])
    sort: str = Field("", max_length=100, description="a column, or COLUMN:desc", examples=["ctr:desc"])
    limit: int = Field(1_000, ge=1, le=1_000_000)
    columns: str | None = Field(None, max_length=1_000, description="columns, separated by commas; default: all")
    by: str | None = Field(None, max_length=512, description="hour, day, week, all; of overview also a field")
    min_executions: int | None = None
    window_s: int | None = None
    session: str | None = Field(None, max_length=512)
    a: str | None = Field(None, max_length=512)
    b: str | None = Field(None, max_length=512)
    of: str | None = Field(None, max_length=512)
    share_b: float | None = Field(None, allow_inf_nan=False)
    effect: float | None = Field(None, allow_inf_nan=False)
    bot_executions: int | None = None
    include_sql: bool = Field(False, description="add the statement that gives the same rows in ClickHouse")


class ColumnDescription(BaseModel):
    """Column of a report. With `has_interval`, `NAME_low` and `NAME_high` are the ends of its 95 % interval."""

    name: str
    unit: str
    meaning: str
    support: str | None
    has_interval: bool

    @classmethod
    def of(cls, column: ReportColumn) -> "ColumnDescription":
        """Describe a column."""
        return cls(
            name=column.name,
            unit=column.unit,
            meaning=column.meaning,
            support=column.support or None,
            has_interval=column.has_interval,
        )


class ParameterDescription(BaseModel):
    """Parameter of a report; one without a default is required."""

    name: str
    default: str | int | float | None
    meaning: str
    choices: list[str]


class ChartDescription(BaseModel):
    """Chart of a report: `y` by `x`, with a line for each value of `series`."""

    kind: ChartKind
    x: str
    y: str
    title: str
    series: str | None

    @classmethod
    def of(cls, chart: Chart) -> "ChartDescription":
        """Describe a chart."""
        return cls(kind=chart.kind, x=chart.x, y=chart.y, title=chart.title, series=chart.series or None)


class ReportDescription(BaseModel):
    """Report with the question that it answers. Its keys are the columns that name a row."""

    name: str
    question: str
    view: str
    columns: list[ColumnDescription]
    keys: list[str]
    chart: ChartDescription | None
    parameters: list[ParameterDescription]

    @classmethod
    def of(cls, report: Report) -> "ReportDescription":
        """Describe a report."""
        return cls(
            name=report.name,
            question=report.question,
            view=report.view,
            columns=[ColumnDescription.of(column) for column in report.columns],
            keys=list(report.keys),
            chart=ChartDescription.of(report.chart) if report.chart else None,
            parameters=[
                ParameterDescription(
                    name=each.name, default=each.default, meaning=each.meaning, choices=list(each.choices)
                )
                for each in report.parameters
            ],
        )


class ReportList(BaseModel):
    """All reports."""

    reports: list[ReportDescription]


class ReportResponse(BaseModel):
    """Rows of a report, as objects. Null: unknown, such as a rate of nothing."""

    report: str
    question: str
    namespace: str
    since: datetime
    until: datetime
    filters: str | None = Field(description="conditions of the events that were read, as text; null: all events")
    columns: list[ColumnDescription]
    rows: list[dict[str, Any]]
    notes: list[str] = Field(description="remarks about the rows that a reader must not miss")
    truncated: bool = Field(description="whether the limit left rows out")
    sql: str | None = Field(None, description="with include_sql: statement of ClickHouse that gives these rows")


def described_reports() -> ReportList:
    """Describe all reports."""
    return ReportList(reports=[ReportDescription.of(report) for report in REPORTS.values()])


class Reports:
    """Reports of one process, bounded in number."""

    def __init__(self, settings: Settings, database: ClickHouse) -> None:
        self._settings = settings
        self._database = database
        self._limit = InFlightLimit(settings.reports_in_flight, "reports", "TALLY_REPORTS_IN_FLIGHT")

    async def answer(self, namespace: str, name: str, query: ReportQuery) -> Response:
        """Return the response with a report. Raises ApiError and Unavailable."""
        if name not in REPORTS:
            raise ApiError(404, unknown_report(name), code="unknown_report")
        request = _request(namespace, name, query)
        try:
            with self._limit.slot():
                found = await run_report(self._settings, self._database, request)
        except ReportError as error:
            name = "filters" if error.parameter == "where" else error.parameter
            raise invalid([problem("bad_report", ["query", name], error.message)]) from None
        sql = {"sql": report_sql(self._settings, request)} if query.include_sql else {}
        return json_answer(_body(found) | sql).response()


def _request(namespace: str, name: str, query: ReportQuery) -> ReportRequest:
    try:
        since, until = event_range(query.since, query.until, query.days, query.hours)
    except ValueError as error:
        raise invalid([problem("conflict", ["query", "since"], str(error))]) from None
    filters = read_filter_parameter(query.filters)
    shared = {"since", "until", "days", "hours", "filters", "sort", "limit", "columns", "include_sql"}
    parameters = query.model_dump(exclude=shared)
    columns = names_of(query.columns)
    return ReportRequest(name, namespace, since, until, parameters, filters, query.sort, query.limit, columns)


def _body(found: ReportResult) -> dict[str, Any]:
    request = found.request
    rows = [
        {name: iso_ms(value) if isinstance(value, datetime) else value for name, value in row.items()}
        for row in found.records()
    ]
    return {
        "report": found.report.name,
        "question": found.report.question,
        "namespace": request.namespace,
        "since": iso_ms(request.since),
        "until": iso_ms(request.until),
        "filters": filters_text(request.filters) if request.filters else None,
        "columns": [ColumnDescription.of(column).model_dump() for column in found.report.columns],
        "rows": rows,
        "notes": list(found.notes),
        "truncated": found.is_truncated,
    }
