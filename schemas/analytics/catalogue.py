"""All reports by name, and the SQL views of them and of what they are made of."""

from collections.abc import Mapping, Sequence

from schemas.analytics.base import EVERYTHING, QUERY_TEXT_PATH, query_text, select_executions, select_results
from schemas.analytics.comparison import COMPARE
from schemas.analytics.definition import Report, ReportScope
from schemas.analytics.funnel import FUNNEL
from schemas.analytics.health import HEALTH
from schemas.analytics.overview import OVERVIEW, QUERIES, RETRIEVERS
from schemas.analytics.results import FEATURES, POSITIONS, URIS
from schemas.analytics.sessions import JOURNEY, SESSIONS
from schemas.analytics.traffic import TYPES, VERDICTS
from schemas.interaction import FIELDS
from schemas.tables import INTERACTIONS

REPORTS: Mapping[str, Report] = {
    report.name: report
    for report in (
        OVERVIEW,
        QUERIES,
        POSITIONS,
        RETRIEVERS,
        FEATURES,
        URIS,
        FUNNEL,
        SESSIONS,
        JOURNEY,
        COMPARE,
        HEALTH,
        TYPES,
        VERDICTS,
    )
}
RANGED_VIEWS = ("results", "executions")
"""Base views with a namespace and a range as parameters. `all_` and the name is the same without parameters."""


def _events(path: Sequence[str]) -> str:
    fields = ", ".join(field.name for field in FIELDS if field.name != "occurred_at")
    return f"""
SELECT namespace, interaction_id, event_time, {query_text(path)} AS query, {fields},
    JSONExtract(metadata, 'Map(String, String)') AS metadata_values, timestamp
FROM {INTERACTIONS} FINAL"""


def views(path: Sequence[str] = QUERY_TEXT_PATH) -> Mapping[str, str]:
    """Return the statements that create the views, by name. `path`: of the query's text in `query_snapshot`."""
    chosen = ReportScope(path=tuple(path))
    selects = {
        "events": _events(path),
        "results": select_results(path=path),
        "executions": select_executions(path=path),
        "all_results": select_results(path=path, within=EVERYTHING),
        "all_executions": select_executions(path=path, within=EVERYTHING),
        **{report.view: report.sql(chosen) for report in REPORTS.values()},
    }
    return {name: f"CREATE OR REPLACE VIEW {name} AS {select.strip()}" for name, select in selects.items()}
