"""Reports over results: attention by position, and clicks by document and by feature index."""

from schemas.analytics.base import select_results
from schemas.analytics.definition import Chart, Report, ReportColumn, ReportParameter, ReportScope
from schemas.analytics.metrics import RESULT_COUNTS, RESULT_METRICS, columns_of, select_metrics

_CTR = RESULT_METRICS[:1]
MAX_SERIES = 8
"""Most values of a field that positions are divided by: those with the most impressions."""
_HAVING = "impressions > 0 OR clicks_without_impression > 0"


def _positions(chosen: ReportScope) -> str:
    if not chosen.group:
        rows = select_results(chosen.condition, chosen.path)
        return select_metrics(rows, "position", "position", RESULT_COUNTS, _CTR, _HAVING)
    rows = select_results(chosen.condition, chosen.path, {"chosen_group": chosen.group})
    metrics = select_metrics(rows, "(position, chosen_group)", "place", RESULT_COUNTS, _CTR, _HAVING)
    return f"""
SELECT place.1 AS position, place.2 AS value, * EXCEPT (place, total, series)
FROM (
    SELECT *, dense_rank() OVER (ORDER BY total DESC, place.2) AS series
    FROM (SELECT *, sum(impressions) OVER (PARTITION BY place.2) AS total FROM ({metrics}))
)
WHERE series <= {MAX_SERIES}"""


POSITIONS = Report(
    name="positions",
    question="How does attention fall with the position?",
    columns=(ReportColumn("position", "position", "0-based position", rank=0), *columns_of(RESULT_COUNTS, _CTR)),
    sql=_positions,
    order="position",
    keys=("position",),
    chart=Chart("intervals", "position", "ctr", "Click-through rate by position"),
    parameters=(
        ReportParameter(
            "by", "String", "position", f"position, or also a field: its {MAX_SERIES} largest values", ("position",)
        ),
    ),
    groups_by="by",
    field_column=ReportColumn("value", "text", "value of the field", rank=0),
)


def _per(column: str, question: str, title: str) -> Report:
    def sql(chosen: ReportScope) -> str:
        rows = select_results(chosen.condition, chosen.path)
        return select_metrics(rows, f"ifNull({column}, '')", column, RESULT_COUNTS, RESULT_METRICS, _HAVING)

    return Report(
        name=title,
        question=question,
        columns=(
            ReportColumn(column, "text", f"{column}; empty: of events without one", rank=0),
            *columns_of(RESULT_COUNTS, RESULT_METRICS),
        ),
        sql=sql,
        order=f"impressions DESC, {column}",
        keys=(column,),
        chart=Chart("intervals", column, "ctr", f"Click-through rate by {column}"),
    )


FEATURES = _per("feature_id", "Which documents are clicked and purchased?", "features")
URIS = _per("feature_uri", "Which feature index finds the results that are clicked?", "uris")
