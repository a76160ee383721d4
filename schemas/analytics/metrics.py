"""Metrics over executions and over results, each defined once: columns of reports, and rows of comparisons."""

from collections.abc import Sequence
from math import inf
from typing import Literal, NamedTuple

from schemas.analytics.definition import ReportColumn, Unit
from schemas.analytics.intervals import median, rounded, share, student, wilson

_UNITS: dict[str, Unit] = {"share": "share", "mean": "number", "median": "ms"}
WITH_RESULTS = "results_shown > 0"
COUNTED = f"({WITH_RESULTS} OR zero_results)"
"""Condition of executions that are counted: they showed results, or found none. Others, such as a click without an
impression, are reported by `health`."""


class Count(NamedTuple):
    """Number of rows, or of distinct values."""

    column: ReportColumn
    sql: str


class SearchMetric(NamedTuple):
    """Share, mean or median of a value over the rows for which `base` holds."""

    name: str
    kind: Literal["share", "mean", "median"]
    value: str
    base: str
    support: str
    """Column with the number of these rows."""
    meaning: str
    rank: int = 2
    most: float | None = None
    """Largest possible value of a mean of values that are not negative; None: values may be negative."""

    @property
    def column(self) -> ReportColumn:
        """Column of a report."""
        return ReportColumn(self.name, _UNITS[self.kind], self.meaning, self.support, has_interval=True, rank=self.rank)


EXECUTION_METRICS: tuple[SearchMetric, ...] = (
    SearchMetric(
        "ctr", "share", "clicks > 0", WITH_RESULTS, "with_results", "share of executions with a click", rank=1
    ),
    SearchMetric(
        "mrr",
        "mean",
        "reciprocal_rank",
        WITH_RESULTS,
        "with_results",
        "mean of 1 / (highest clicked position + 1)",
        rank=1,
        most=1,
    ),
    SearchMetric(
        "abandonment", "share", "abandoned", WITH_RESULTS, "with_results", "share of executions with impressions only"
    ),
    SearchMetric(
        "zero_result_rate", "share", "zero_results", COUNTED, "executions", "share of executions that found nothing"
    ),
    SearchMetric("refinement_rate", "share", "refined", COUNTED, "executions", "share of executions that were refined"),
    SearchMetric(
        "conversion", "share", "purchased", WITH_RESULTS, "with_results", "share of executions with a purchase"
    ),
    SearchMetric("reward", "mean", "reward", COUNTED, "executions", "mean reward per execution", rank=3),
    SearchMetric(
        "mean_clicks",
        "mean",
        "clicks",
        WITH_RESULTS,
        "with_results",
        "mean number of results clicked",
        rank=3,
        most=inf,
    ),
    SearchMetric("ndcg", "mean", "ndcg", WITH_RESULTS, "with_results", "mean nDCG@10 of clicks", rank=3, most=1),
)
TIME_TO_CLICK = SearchMetric(
    "ms_to_click",
    "median",
    "ms_to_first_click",
    "clicks > 0",
    "with_clicks",
    "median time from the impressions to the first click",
    rank=3,
)
EXECUTION_COUNTS: tuple[Count, ...] = (
    Count(
        ReportColumn("executions", "count", "executions that showed results or found none", rank=0),
        f"countIf({COUNTED})",
    ),
    Count(ReportColumn("with_results", "count", "executions that showed results", rank=4), f"countIf({WITH_RESULTS})"),
    Count(
        ReportColumn("with_clicks", "count", "executions with a click", rank=4),
        f"countIf({WITH_RESULTS} AND clicks > 0)",
    ),
    Count(ReportColumn("users", "count", "distinct user_id", rank=3), f"uniqExactIf(user_id, {COUNTED})"),
    Count(ReportColumn("sessions", "count", "distinct session_id", rank=4), f"uniqExactIf(session_id, {COUNTED})"),
)

RESULT_METRICS: tuple[SearchMetric, ...] = (
    SearchMetric("ctr", "share", "clicked", "shown", "impressions", "share of impressions that were clicked", rank=0),
    SearchMetric(
        "conversion", "share", "purchased", "shown", "impressions", "share of impressions that were purchased"
    ),
    SearchMetric("reward", "mean", "reward", "shown", "impressions", "mean reward per impression"),
    SearchMetric(
        "mean_position",
        "mean",
        "position",
        "shown",
        "impressions",
        "mean 0-based position of the impressions",
        rank=3,
        most=inf,
    ),
)
RESULT_COUNTS: tuple[Count, ...] = (
    Count(ReportColumn("impressions", "count", "results shown, each once per execution", rank=0), "countIf(shown)"),
    Count(ReportColumn("clicks", "count", "results shown and clicked", rank=1), "countIf(shown AND clicked)"),
    Count(
        ReportColumn("clicks_without_impression", "count", "results clicked that were never recorded as shown", rank=4),
        "countIf(clicked AND NOT shown)",
    ),
)


def columns_of(counts: Sequence[Count], metrics: Sequence[SearchMetric]) -> tuple[ReportColumn, ...]:
    """Return the columns of counts and metrics."""
    return (*(count.column for count in counts), *(metric.column for metric in metrics))


def select_metrics(
    rows: str, group: str, name: str, counts: Sequence[Count], metrics: Sequence[SearchMetric], having: str
) -> str:
    """Select counts and metrics of groups of rows; `group` is an expression over a row, and `name` its column."""
    counted = [count.column.name for count in counts]
    inner = [f"{group} AS _group", *(f"{count.sql} AS {count.column.name}" for count in counts), *map(_inner, metrics)]
    outer = [f"_group AS {name}", *counted, *map(_outer, metrics)]
    separator = ",\n    "
    return f"""
SELECT
    {separator.join(outer)}
FROM (
    SELECT
    {separator.join(inner)}
    FROM ({rows})
    GROUP BY _group
    HAVING {having}
)"""


def _inner(metric: SearchMetric) -> str:
    value, base, name = metric.value, metric.base, f"_{metric.name}"
    if metric.kind == "share":
        return f"countIf({base} AND {value}) AS {name}"
    if metric.kind == "mean":
        each = f"toFloat64({value}), {base}"
        return f"avgIf({each}) AS {name}, stddevSampStableIf({each}) AS {name}_sd"
    return f"arraySort(groupArrayIf(assumeNotNull({value}), {base} AND isNotNull({value}))) AS {name}"


def _outer(metric: SearchMetric) -> str:
    value, support = f"_{metric.name}", metric.support
    if metric.kind == "share":
        middle, (low, high) = share(value, support), wilson(value, support)
    elif metric.kind == "mean":
        middle = rounded(f"if({support} = 0, NULL, {value})")
        low, high = student(value, f"{value}_sd", support, most=metric.most)
    else:
        middle, low, high = median(value)
    return f"{middle} AS {metric.name}, {low} AS {metric.name}_low, {high} AS {metric.name}_high"
