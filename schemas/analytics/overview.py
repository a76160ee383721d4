"""Reports over executions: search over time, by retriever and by query."""

from schemas.analytics.base import select_executions
from schemas.analytics.definition import Chart, Report, ReportColumn, ReportParameter, ReportScope
from schemas.analytics.metrics import (
    EXECUTION_COUNTS,
    EXECUTION_METRICS,
    TIME_TO_CLICK,
    SearchMetric,
    columns_of,
    select_metrics,
)

PERIODS = ("hour", "day", "week", "all")
ALL_METRICS = (*EXECUTION_METRICS, TIME_TO_CLICK)
_PER_QUERY = ("ctr", "mrr", "zero_result_rate", "abandonment", "refinement_rate")
QUERY_METRICS = tuple(metric for metric in EXECUTION_METRICS if metric.name in _PER_QUERY)


def period(time: str = "event_time") -> str:
    """Return the beginning of a time's hour, day or week (from Monday), in UTC; of all together, that of the range."""
    return (
        f"multiIf({{by:String}} = 'hour', toStartOfHour({time}, 'UTC'), "
        f"{{by:String}} = 'day', toStartOfDay({time}, 'UTC'), "
        f"{{by:String}} = 'week', toDateTime(toMonday({time}, 'UTC'), 'UTC'), "
        "toDateTime({since:DateTime64(3, 'UTC')}, 'UTC'))"
    )


BY = ReportParameter("by", "String", "day", "hour, day, week (from Monday, UTC) or all", PERIODS)


def _per_group(rows: str, group: str, name: str, metrics: tuple[SearchMetric, ...] = ALL_METRICS) -> str:
    return select_metrics(rows, group, name, EXECUTION_COUNTS, metrics, "executions > 0")


def _overview(chosen: ReportScope) -> str:
    if chosen.group:
        rows = select_executions(chosen.condition, chosen.path, {"chosen_group": chosen.group})
        return _per_group(rows, "chosen_group", "period")
    return _per_group(select_executions(chosen.condition, chosen.path), period(), "period")


OVERVIEW = Report(
    name="overview",
    question="How well does search work, over time or by a field of the events?",
    columns=(
        ReportColumn("period", "time", "beginning of the period (UTC), or the value of the field", rank=0),
        *columns_of(EXECUTION_COUNTS, ALL_METRICS),
    ),
    sql=_overview,
    order="period",
    keys=("period",),
    chart=Chart("trend", "period", "ctr", "Click-through rate of executions"),
    parameters=(BY._replace(meaning="hour, day, week (from Monday, UTC), all, or a field such as metadata.device"),),
    groups_by="by",
)

RETRIEVERS = Report(
    name="retrievers",
    question="How well does search work with each retriever?",
    columns=(
        ReportColumn("retriever_id", "text", "retriever; empty: of events without one", rank=0),
        *columns_of(EXECUTION_COUNTS, ALL_METRICS),
    ),
    sql=lambda chosen: _per_group(
        select_executions(chosen.condition, chosen.path), "ifNull(retriever_id, '')", "retriever_id"
    ),
    order="executions DESC, retriever_id",
    keys=("retriever_id",),
    chart=Chart("intervals", "retriever_id", "ctr", "Click-through rate by retriever"),
)


def _queries(chosen: ReportScope) -> str:
    rows = _per_group(select_executions(chosen.condition, chosen.path), "query", "text", QUERY_METRICS)
    return f"SELECT * FROM ({rows}) WHERE executions >= {{min_executions:UInt32}}"


QUERIES = Report(
    name="queries",
    question="What do people search for, and where does search fail?",
    columns=(
        ReportColumn("text", "text", "text of the query, in lower case; empty: of events without one", rank=0),
        *columns_of(EXECUTION_COUNTS, QUERY_METRICS),
    ),
    sql=_queries,
    order="executions DESC, text",
    keys=("text",),
    chart=Chart("intervals", "text", "ctr", "Click-through rate by query"),
    parameters=(ReportParameter("min_executions", "UInt32", 10, "minimum executions of a listed query", at_least=1),),
)
