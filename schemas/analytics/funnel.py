"""Funnel: from impression to click, cart and purchase, with purchases attributed to clicks."""

from schemas.analytics.base import EXECUTION, RANGE
from schemas.analytics.definition import Chart, Report, ReportColumn, ReportParameter, ReportScope
from schemas.analytics.intervals import share, wilson
from schemas.tables import INTERACTIONS

STEPS = ("impression", "click", "add_to_cart", "purchase")


def _events(kind: str, chosen: ReportScope) -> str:
    """Select the events of a type, once for each identity that they have, in order of preference."""
    return f"""
SELECT interaction_id AS id, feature_id, event_time AS at, {EXECUTION} AS execution,
    identity.1 AS preference, identity.2 AS same
FROM {INTERACTIONS} FINAL
ARRAY JOIN [(1, ifNull(session_id, '')), (2, ifNull(user_id, '')), (3, {EXECUTION})] AS identity
WHERE {RANGE} AND {chosen.condition} AND has(interaction_type, '{kind}') AND same != ''"""


def select_attributed(chosen: ReportScope) -> str:
    """Select (id, execution): purchases, with the execution of the click that each is attributed to.

    It is the last click on the same document within `window_s` before the purchase, in the same session, else of the
    same user, else in the same execution. Purchases without such a click are absent.
    """
    return f"""
SELECT bought.id AS id, argMin(clicked.execution, bought.preference) AS execution
FROM ({_events("purchase", chosen)}) AS bought
ASOF JOIN ({_events("click", chosen)}) AS clicked
ON bought.preference = clicked.preference AND bought.same = clicked.same AND bought.feature_id = clicked.feature_id
    AND bought.at >= clicked.at
WHERE clicked.at >= bought.at - toIntervalSecond({{window_s:UInt32}})
GROUP BY id"""


def _funnel(chosen: ReportScope) -> str:
    reached = f"""
SELECT {EXECUTION} AS execution,
    max(has(interaction_type, 'impression')) AS step_1, max(has(interaction_type, 'click')) AS step_2,
    max(has(interaction_type, 'add_to_cart')) AS step_3
FROM {INTERACTIONS} FINAL
WHERE {RANGE} AND {chosen.condition}
GROUP BY execution"""
    totals = ", ".join(
        f"countIf({' AND '.join(f'step_{step}' for step in range(1, last + 1))})" for last in range(1, len(STEPS) + 1)
    )
    anyhow = ", ".join(f"countIf(step_{step})" for step in range(1, len(STEPS) + 1))
    low, high = wilson("executions", "before")
    return f"""
SELECT step, name, executions, before,
    if(step = 1, NULL, {share("executions", "before")}) AS share_of_previous,
    if(step = 1, NULL, {low}) AS share_of_previous_low, if(step = 1, NULL, {high}) AS share_of_previous_high,
    {share("executions", "first")} AS share_of_first, any_order
FROM (
    SELECT step, [{", ".join(f"'{name}'" for name in STEPS)}][step] AS name, totals[step] AS executions,
        if(step = 1, totals[1], totals[step - 1]) AS before, totals[1] AS first, anyhow[step] AS any_order
    FROM (
        SELECT [{totals}] AS totals, [{anyhow}] AS anyhow
        FROM (
            SELECT reached.*, execution IN (SELECT execution FROM ({select_attributed(chosen)})) AS step_4
            FROM ({reached}) AS reached
        )
    ) ARRAY JOIN arrayEnumerate(totals) AS step
)"""


FUNNEL = Report(
    name="funnel",
    question="How many executions lead to a click, a cart and a purchase?",
    columns=(
        ReportColumn("step", "count", "number of the step", rank=0),
        ReportColumn("name", "text", "interaction type of the step", rank=0),
        ReportColumn("executions", "count", "executions with this step and all before it", rank=0),
        ReportColumn("before", "count", "executions with the steps before it", rank=3),
        ReportColumn("share_of_previous", "share", "executions / before", "before", has_interval=True, rank=1),
        ReportColumn("share_of_first", "share", "executions / those of the first step", rank=2),
        ReportColumn("any_order", "count", "executions with this step, with or without the steps before it", rank=3),
    ),
    sql=_funnel,
    order="step",
    keys=("name",),
    total="executions",
    chart=Chart("bars", "name", "executions", "Executions by step"),
    parameters=(
        ReportParameter(
            "window_s", "UInt32", 86_400, "maximum seconds from a click to the purchase attributed to it", at_least=1
        ),
    ),
)
