"""Sessions: their queries, clicks and duration; and the events of one session in order."""

from schemas.analytics.base import RANGE, query_text, select_executions
from schemas.analytics.definition import Report, ReportColumn, ReportParameter, ReportScope
from schemas.tables import INTERACTIONS

MAX_QUERIES = 20
"""Largest number of queries that are listed of a session."""


def _sessions(chosen: ReportScope) -> str:
    return f"""
SELECT assumeNotNull(session_id) AS session, max(user_id) AS user_id, min(event_time) AS began_at,
    count() AS executions,
    arrayMap(x -> x.2, arrayCompact(x -> x.2, groupArraySortedIf({MAX_QUERIES})((event_time, query), query != '')))
        AS queries,
    sum(clicks) AS clicks, countIf(purchased) AS purchases, sum(reward) AS reward,
    date_diff('millisecond', min(event_time), max(ended_at)) AS duration_ms
FROM ({select_executions(chosen.condition, chosen.path)})
WHERE isNotNull(session_id)
GROUP BY session"""


SESSIONS = Report(
    name="sessions",
    question="What does a visit look like?",
    columns=(
        ReportColumn("session", "text", "session_id", rank=0),
        ReportColumn("user_id", "text", "user, if known", rank=3),
        ReportColumn("began_at", "time", "time of the first event", rank=1),
        ReportColumn("executions", "count", "executions; an event without execution_id is one of its own", rank=1),
        ReportColumn(
            "queries", "texts", f"texts in order, repetitions joined, of {MAX_QUERIES} executions at most", rank=2
        ),
        ReportColumn("clicks", "count", "results clicked", rank=0),
        ReportColumn("purchases", "count", "executions with a purchase", rank=2),
        ReportColumn("reward", "number", "reward", rank=3),
        ReportColumn("duration_ms", "ms", "time from the first to the last event", rank=1),
    ),
    sql=_sessions,
    order="began_at DESC, session",
    keys=("session",),
)


def _journey(chosen: ReportScope) -> str:
    return f"""
SELECT event_time, arrayStringConcat(interaction_type, ',') AS types, {query_text(chosen.path)} AS query,
    feature_id, position, retriever_id, execution_id, interaction_id
FROM {INTERACTIONS} FINAL
WHERE {RANGE} AND {chosen.condition} AND session_id = {{session:String}}"""


JOURNEY = Report(
    name="journey",
    question="What happened in one session, event by event?",
    columns=(
        ReportColumn("event_time", "time", "time of the event", rank=0),
        ReportColumn("types", "text", "interaction types", rank=0),
        ReportColumn("query", "text", "text of the query", rank=1),
        ReportColumn("feature_id", "text", "document", rank=1),
        ReportColumn("position", "position", "0-based position", rank=1),
        ReportColumn("retriever_id", "text", "retriever", rank=2),
        ReportColumn("execution_id", "text", "execution", rank=3),
        ReportColumn("interaction_id", "text", "id of the event", rank=4),
    ),
    sql=_journey,
    order="event_time, interaction_id",
    keys=("event_time",),
    parameters=(ReportParameter("session", "String", None, "session_id"),),
)
