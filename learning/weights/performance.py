"""Performance of a retriever from its executions, over time and by whether signals of the session were used.

Metrics and their intervals are those of the reports (`schemas/analytics/metrics.py`). An execution belongs to the
retriever that its events name, as in the report `retrievers`: a click without a retriever_id counts.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

from learning.scope import LearningScope
from runtime.analytics import RangeTooLarge, range_errors, report_limits
from runtime.clickhouse import ClickHouse
from runtime.settings import Settings
from schemas.analytics.base import select_executions
from schemas.analytics.definition import ReportColumn, with_ends
from schemas.analytics.intervals import share, wilson
from schemas.analytics.metrics import EXECUTION_COUNTS, EXECUTION_METRICS, columns_of, select_metrics
from schemas.analytics.overview import period
from schemas.event_time import iso_ms

NO_CAUSE = (
    "executions with and without signals of the session are different searches: the difference says how they differ, "
    "not what the signals cause; for that, compare two retrievers to which users are assigned at random"
)
FEW_EXECUTIONS = 100
"""Number of executions from which the normal interval of a mean reward is given without a note."""
Period = Literal["hour", "day", "week"]
SessionUse = Literal["session", "no_session", "not_learned", ""]

_METRICS = tuple(metric for metric in EXECUTION_METRICS if metric.name in ("ctr", "mrr", "reward"))
_COUNTS = tuple(count for count in EXECUTION_COUNTS if count.column.name in ("executions", "with_results"))
COLUMNS: Sequence[ReportColumn] = columns_of(_COUNTS, _METRICS)
"""Columns of each period, in order."""
_NAMES = [name for column in COLUMNS for name in with_ends(column)]
_DECISION = "metadata, 'learned_fusion_context'"
# Of an execution the largest of these texts counts. Its events have the same one, unless the caller mixed them up.
_SESSION_USE = f"""multiIf(
    JSONType({_DECISION}, 'context_level') != 'String', '',
    JSONExtractString({_DECISION}, 'context_level') NOT IN ('personal', 'segment', 'global')
        OR JSONExtractBool({_DECISION}, 'shadow'), 'not_learned',
    JSONExtractBool({_DECISION}, 'session'), 'session', 'no_session')"""
_LEARNED = "decision IN ('session', 'no_session')"


class PeriodMetrics(NamedTuple):
    """Counts and metrics of the executions of a period, by the names of COLUMNS and their ends."""

    begin: datetime
    values: Mapping[str, Any]


class Performance(NamedTuple):
    """Performance over time, and of the whole range."""

    scope: LearningScope
    periods: Sequence[PeriodMetrics]
    """Periods with executions, in ascending order."""
    whole: Mapping[str, Any] | None
    """None: there were no executions."""


class SessionComparison(NamedTuple):
    """Executions by whether signals of the session were used for their weights."""

    scope: LearningScope
    groups: Mapping[SessionUse, Mapping[str, Any]]
    """Counts, metrics, and `share`: of all executions with learned weights. Groups without executions are absent.

    `session`: learned weights with signals of the session. `no_session`: learned weights without. `not_learned`: static
    weights were served, in shadow mode too. Empty text: no decision in metadata.learned_fusion_context.
    """


async def read_performance(settings: Settings, database: ClickHouse, scope: LearningScope, by: Period) -> Performance:
    """Return the performance by hour, day or week (from Monday), UTC. Raises RangeTooLarge and Unavailable."""
    sql = select_metrics(_rows(scope), period(), "period", _COUNTS, _METRICS, "executions > 0")
    most = settings.report_rows
    found = await _read(settings, database, scope, f"{_select('period', sql)} ORDER BY period LIMIT {most + 1}", by)
    if len(found) > most:
        raise RangeTooLarge(
            f"the range has more than {most:,} periods: choose a shorter one, or longer periods, or raise "
            "TALLY_REPORT_ROWS"
        )
    whole = await _read(settings, database, scope, _select("period", sql), "all")
    periods = [PeriodMetrics(begin.astimezone(UTC), _named(values)) for begin, *values in found]
    return Performance(scope, periods, _named(whole[0][1:]) if whole else None)


async def compare_session_use(settings: Settings, database: ClickHouse, scope: LearningScope) -> SessionComparison:
    """Return the executions by use of session signals. Raises RangeTooLarge and Unavailable."""
    rows = _rows(scope, {"decision_used": _SESSION_USE})
    sql = select_metrics(rows, "decision_used", "decision", _COUNTS, _METRICS, "executions > 0")
    low, high = wilson("executions", "total")
    shares = ", ".join(
        f"if({_LEARNED}, {each}, NULL) AS {name}"
        for name, each in (("share", share("executions", "total")), ("share_low", low), ("share_high", high))
    )
    with_total = f"SELECT *, sum(if({_LEARNED}, executions, 0)) OVER () AS total FROM ({sql})"
    found = await _read(
        settings, database, scope, f"{_select('decision', with_total, shares)} ORDER BY decision", "all"
    )
    names = [*_NAMES, "share", "share_low", "share_high"]
    return SessionComparison(scope, {row[0]: dict(zip(names, row[1:], strict=True)) for row in found})


def sessions_body(found: SessionComparison) -> dict[str, Any]:
    """Return the executions by use of session signals as JSON values."""
    scope = found.scope
    return {
        "retriever_id": scope.retriever,
        "namespace": scope.namespace,
        "since": iso_ms(scope.since),
        "until": iso_ms(scope.until),
        "groups": {name or "no_decision": values for name, values in found.groups.items()},
        "notes": notes_of(found),
    }


def notes_of(found: SessionComparison) -> list[str]:
    """Return what to know about the numbers: few executions, and that a difference has no known cause."""
    few = [values["executions"] for values in found.groups.values() if values["executions"] < FEW_EXECUTIONS]
    if not few:
        return [NO_CAUSE]
    numbers = ", ".join(f"{each:,}" for each in few)
    return [
        NO_CAUSE,
        f"groups of few executions ({numbers}; fewer than {FEW_EXECUTIONS:,}): the interval of a mean reward is "
        "approximate there, and may reach beyond the possible rewards",
    ]


def _rows(scope: LearningScope, more: Mapping[str, str] | None = None) -> str:
    executions = select_executions(path=scope.query_path, more=more)
    return f"SELECT * FROM ({executions}) WHERE retriever_id = {{retriever:String}}"


def _select(key: str, rows: str, *more: str) -> str:
    return f"SELECT {', '.join([key, *_NAMES, *more])} FROM ({rows})"


def _named(values: Sequence[Any]) -> Mapping[str, Any]:
    return dict(zip(_NAMES, values, strict=True))


async def _read(
    settings: Settings, database: ClickHouse, scope: LearningScope, sql: str, by: Period | Literal["all"]
) -> Sequence[Sequence[Any]]:
    with range_errors(settings, "the performance"):
        return await database.rows(sql, {**scope.parameters(), "by": by}, limits=report_limits(settings))
