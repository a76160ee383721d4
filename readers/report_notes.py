"""Remarks about a report's rows: why there are none, and which periods are not whole."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from readers.filter_fields import FilterField
from readers.filter_sql import is_absent, where
from readers.filter_words import conjuncts, field_name, filters_text
from readers.filters import Condition
from readers.report_scope import scope_text
from runtime.analytics import range_parameters, report_limits
from runtime.clickhouse import BoundParameters, ClickHouse
from runtime.settings import Settings
from schemas.analytics.base import EXECUTION, RANGE, EventCondition
from schemas.analytics.definition import Report
from schemas.tables import INTERACTIONS

if TYPE_CHECKING:
    from readers.report_statement import ReportRequest
    from readers.reports import ReportResult

MAX_CONDITIONS = 8
"""Conditions of a filter that are counted one by one, if a report has no rows."""
MAX_GROUPS = 20
"""Groups that are named where a group of a comparison is not found."""


def is_empty(report: Report, records: Sequence[dict[str, Any]]) -> bool:
    """Return whether no event was found: a report with fixed rows has zeros then."""
    return not any(record[report.total] for record in records) if report.total else not records


async def reasons_for_nothing(settings: Settings, database: ClickHouse, request: "ReportRequest") -> list[str]:
    """Explain why a report found nothing: from the events of the range that meet each condition. Raises Unavailable."""
    bind = BoundParameters()
    conditions = list(conjuncts(request.filters))[:MAX_CONDITIONS] if request.filters else []
    fields = list(dict.fromkeys(each.field for each in conditions if isinstance(each, Condition)))
    met = [where(each, bind) for each in conditions]
    counted = [*met, *(f"NOT {is_absent(field, bind)}" for field in fields), " AND ".join(met) or "1"]
    sql = f"""
SELECT count(), {", ".join(f"countIf({each})" for each in counted)} FROM {INTERACTIONS} FINAL WHERE {RANGE}"""
    scope = range_parameters(request.namespace, request.since, request.until)
    ((total, *counts, all_met),) = await database.rows(sql, {**scope, **bind.values}, limits=report_limits(settings))
    found = f"nothing found: namespace {scope_text(request)}"
    if not total:
        return [found, "the namespace has no events in this range"]
    texts = [filters_text(each) for each in conditions]
    return [found, *_reasons(request, total, texts, fields, counts, all_met)]


def _reasons(
    request: "ReportRequest", total: int, texts: list[str], fields: list[FilterField], counts: list[int], all_met: int
) -> list[str]:
    """Return a line for each condition that no event meets; without one, a line for all of them together."""
    absent = [field_name(field) for field, count in zip(fields, counts[len(texts) :], strict=True) if not count]
    lines = [f"none of the {total:,} events in this range has {name}" for name in absent]
    lines += [
        f"none of the {total:,} events in this range meets: {text}"
        for text, count in zip(texts, counts, strict=False)
        if not count and not any(text.startswith(f"{name} ") for name in absent)
    ]
    if lines:
        return lines
    if texts and not all_met:
        return ["each condition is met by some events, but no event meets all of them"]
    given = ", ".join(f"{name} = {value}" for name, value in request.parameters.items() if value is not None)
    events = f"{total:,} events are in this range" if not texts else f"{all_met:,} events meet the conditions"
    return [f"{events}, but none is one of this report{f', with {given}' if given else ''}"]


async def groups_of(
    settings: Settings, database: ClickHouse, group: str, condition: EventCondition, values: dict[str, Any]
) -> list[str]:
    """Return the groups with the most executions, each with their number. `values`: of the range and the condition."""
    sql = f"""
SELECT toString({group}) AS name, uniqExact({EXECUTION}) AS executions FROM {INTERACTIONS} FINAL
WHERE {RANGE} AND {condition} AND name != ''
GROUP BY name ORDER BY executions DESC, name LIMIT {MAX_GROUPS}"""
    rows = await database.rows(sql, values, limits=report_limits(settings))
    return [f"{name} ({executions:,} executions)" for name, executions in rows]


def cut_periods(result: "ReportResult") -> list[str]:
    """Return a line about the periods that the ends of the range cut; none if all periods are whole."""
    by = result.request.parameters.get("by") or result.report.defaults().get("by")
    periods = {row["period"] for row in result.records() if isinstance(row.get("period"), datetime)}
    if by not in ("hour", "day", "week") or not periods:
        return []
    known = {_in_utc(each) for each in periods}
    since, until = (moment.astimezone(UTC) for moment in (result.request.since, result.request.until))
    until = min(until, datetime.now(UTC))
    cut = [
        f"{_name(_begin(moment, str(by)), str(by))} {verb} {moment:%Y-%m-%d %H:%M}"
        for moment, verb in ((since, "begins at"), (until, "ends at"))
        if _begin(moment, str(by)) in known and moment != _begin(moment, str(by))
    ]
    return [f"not whole, because of the range: {', '.join(cut)}"] if cut else []


def _in_utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def _begin(moment: datetime, by: str) -> datetime:
    """Return the beginning of a moment's hour, day or week, as `schemas.analytics.overview.period`."""
    hour = moment.replace(minute=0, second=0, microsecond=0)
    if by == "hour":
        return hour
    day = hour.replace(hour=0)
    return day if by == "day" else day - timedelta(days=day.weekday())


def _name(period: datetime, by: str) -> str:
    return f"{period:%Y-%m-%d %H:%M}" if by == "hour" else f"{period:%Y-%m-%d}"
