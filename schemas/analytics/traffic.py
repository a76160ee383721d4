"""Reports over events and outcomes: types, and what became of events, over time."""

from schemas.analytics.base import APPENDED_RANGE, RANGE
from schemas.analytics.definition import Chart, Report, ReportColumn, ReportScope
from schemas.analytics.intervals import share, wilson
from schemas.analytics.overview import BY, period
from schemas.tables import INTERACTIONS, OUTCOMES


def _types(chosen: ReportScope) -> str:
    return f"""
SELECT {period()} AS period, type, count() AS interactions
FROM {INTERACTIONS} FINAL ARRAY JOIN arrayDistinct(interaction_type) AS type
WHERE {RANGE} AND {chosen.condition}
GROUP BY period, type"""


TYPES = Report(
    name="types",
    question="How many events of each type were stored?",
    columns=(
        ReportColumn("period", "time", "beginning of the period (UTC)", rank=0),
        ReportColumn("type", "text", "interaction type", rank=0),
        ReportColumn("interactions", "count", "stored events with this type", rank=0),
    ),
    sql=_types,
    order="period, interactions DESC, type",
    keys=("period", "type"),
    chart=Chart("trend", "period", "interactions", "Interactions by type", series="type"),
    parameters=(BY,),
)

_RATES = {
    "duplicate_rate": ("duplicates", "share of events that were duplicates"),
    "rejection_rate": ("rejected", "share of events that were rejected"),
}
_RATE_SQL = ", ".join(
    f"{share(hits, 'events')} AS {name}, {low} AS {name}_low, {high} AS {name}_high"
    for name, (hits, _) in _RATES.items()
    for low, high in [wilson(hits, "events")]
)


def _verdicts(_: ReportScope) -> str:
    return f"""
SELECT period, events, stored, duplicates, rejected, moved, {_RATE_SQL}
FROM (
    SELECT {period("timestamp")} AS period,
        countIf(verdict != 'moved') AS events, countIf(verdict = 'stored') AS stored,
        countIf(verdict = 'duplicate') AS duplicates, countIf(verdict = 'rejected') AS rejected,
        countIf(verdict = 'moved') AS moved
    FROM (
        SELECT timestamp, 'stored' AS verdict FROM {INTERACTIONS} FINAL WHERE {APPENDED_RANGE}
        UNION ALL
        SELECT timestamp, CAST(verdict, 'String') AS verdict FROM {OUTCOMES} FINAL WHERE {APPENDED_RANGE}
    )
    GROUP BY period
)"""


VERDICTS = Report(
    name="verdicts",
    question="What became of the events, by the time they were appended?",
    columns=(
        ReportColumn("period", "time", "beginning of the period (UTC), by append time", rank=0),
        ReportColumn("events", "count", "stored, duplicate and rejected events", rank=1),
        ReportColumn("stored", "count", "stored events", rank=0),
        ReportColumn("duplicates", "count", "duplicates", rank=0),
        ReportColumn("rejected", "count", "rejected events", rank=0),
        ReportColumn("moved", "count", "events moved to the partition of their key, and counted there", rank=3),
        *(
            ReportColumn(name, "share", meaning, "events", has_interval=True, rank=2)
            for name, (_, meaning) in _RATES.items()
        ),
    ),
    sql=_verdicts,
    order="period",
    keys=("period",),
    chart=Chart("trend", "period", "duplicate_rate", "Share of duplicates"),
    parameters=(BY,),
    takes_condition=False,
)
