"""Comparison of two groups, such as two retrievers, with users as the unit.

Each metric is averaged per user first, because executions of one user are alike. The difference of the users' means has
Welch's interval and p-value (Welch, 1947); p-values are adjusted over the metrics (Benjamini and Hochberg, 1995). The
split is checked by a chi-squared test of the numbers of users (sample-ratio mismatch).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from schemas.analytics.base import select_executions
from schemas.analytics.definition import Chart, Report, ReportColumn, ReportParameter, ReportScope
from schemas.analytics.intervals import Z, rounded
from schemas.analytics.metrics import COUNTED, EXECUTION_METRICS
from schemas.sql_text import literal

UNIT = "coalesce(user_id, session_id, execution_id)"
"""Unit of a comparison: the user, else the session, else the execution."""
BROKEN_SPLIT_P = 0.001
"""P-value of the split of users below which the split is taken for broken."""
Z_POWER = 0.8416212335729143
"""Quantile 0.8 of the normal distribution: a power of 80 %."""
_THIS_AND_LARGER = "ORDER BY p ASC NULLS LAST, number ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING"
_UNTESTED = "[0., 1., 0., 1.]", "[0, 0, 1, 1]"
"""Values and groups given to the test where it would fail: of fewer than two users, or of equal values."""


def _per_user(chosen: ReportScope) -> str:
    group = chosen.group or "retriever_id"
    rows = select_executions(chosen.condition, chosen.path, {"chosen_group": group})
    means = ", ".join(
        f"({literal(metric.name)}, {number}, avgOrNullIf(toFloat64({metric.value}), {metric.base}))"
        for number, metric in enumerate(EXECUTION_METRICS)
    )
    return f"""
SELECT {UNIT} AS unit, chosen_group = {{b:String}} AS is_b, [{means}] AS means
FROM ({rows})
WHERE chosen_group IN ({{a:String}}, {{b:String}}) AND {COUNTED}
GROUP BY unit, is_b"""


def _compare(chosen: ReportScope) -> str:
    power = f"{Z + Z_POWER}"
    variance = "(variance_a / users_a + variance_b / users_b)"
    expected_b = "(all_a + all_b) * {share_b:Float64}"
    chi = (
        f"pow(all_b - {expected_b}, 2) / ({expected_b}) + pow(all_b - {expected_b}, 2) / (all_a + all_b - {expected_b})"
    )
    return f"""
SELECT number, metric, {rounded("a")} AS a, {rounded("b")} AS b,
    {rounded("b - a")} AS difference, {rounded("if(is_testable, test.3, NULL)")} AS difference_low,
    {rounded("if(is_testable, test.4, NULL)")} AS difference_high,
    {rounded("if(a = 0, NULL, (b - a) / abs(a))")} AS relative,
    {rounded("p")} AS p_value,
    {rounded(f"if(is_testable, min(least(1, p * tests / rank)) OVER ({_THIS_AND_LARGER}), NULL)")} AS adjusted_p,
    {rounded(f"if(is_testable, {power} * sqrt({variance}), NULL)")} AS detectable,
    accurateCastOrNull(ceil(pow({power} / ({{effect:Float64}} * a), 2) * (variance_a + variance_b)), 'UInt64')
        AS users_needed,
    users_a, users_b, {rounded(f"erfc(sqrt(({chi}) / 2))")} AS sample_ratio_p, in_both AS users_in_both
FROM (
    SELECT *, if(is_testable, test.2, NULL) AS p, count(p) OVER () AS tests,
        row_number() OVER (ORDER BY p ASC NULLS LAST, number) AS rank
    FROM (
        SELECT mean.1 AS metric, mean.2 AS number,
            countIf(isNotNull(mean.3) AND NOT is_b) AS users_a, countIf(isNotNull(mean.3) AND is_b) AS users_b,
            avgOrNullIf(mean.3, NOT is_b) AS a, avgOrNullIf(mean.3, is_b) AS b,
            varSampStableIf(mean.3, NOT is_b) AS variance_a, varSampStableIf(mean.3, is_b) AS variance_b,
            groupArrayIf(assumeNotNull(mean.3), isNotNull(mean.3)) AS values,
            groupArrayIf(toUInt8(NOT is_b), isNotNull(mean.3)) AS groups,
            users_a > 1 AND users_b > 1 AND variance_a + variance_b > 0 AS is_testable,
            arrayReduce(
                'welchTTest(0.95)', if(is_testable, values, {_UNTESTED[0]}), if(is_testable, groups, {_UNTESTED[1]})
            ) AS test,
            countIf(NOT is_b) AS all_a, countIf(is_b) AS all_b, all_a + all_b - uniqExact(unit) AS in_both
        FROM ({_per_user(chosen)}) ARRAY JOIN means AS mean
        GROUP BY metric, number
    )
)"""


def _notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    notes = []
    if rows and rows[0]["sample_ratio_p"] is not None and rows[0]["sample_ratio_p"] < BROKEN_SPLIT_P:
        notes.append(
            "the split of the users is not the expected one (sample-ratio mismatch): do not trust the differences"
        )
    if rows and rows[0]["users_in_both"]:
        notes.append(
            f"{rows[0]['users_in_both']:,} users are in both groups; the test takes them for different users, "
            "so intervals are too wide"
        )
    return notes


COMPARE = Report(
    name="compare",
    question="Is B better than A?",
    columns=(
        ReportColumn("metric", "text", "metric of `overview`, averaged per user", rank=0),
        ReportColumn("a", "number", "mean of the users of A", "users_a", rank=0),
        ReportColumn("b", "number", "mean of the users of B", "users_b", rank=0),
        ReportColumn("difference", "number", "b - a", has_interval=True, rank=0),
        ReportColumn("relative", "share", "difference as a share of the absolute value of a", rank=2),
        ReportColumn("p_value", "p", "Welch's test", rank=2),
        ReportColumn("adjusted_p", "p", "p-value adjusted over the metrics (Benjamini-Hochberg)", rank=1),
        ReportColumn(
            "detectable", "number", "smallest difference that these users detect with a power of 80 %", rank=2
        ),
        ReportColumn(
            "users_needed", "count", "users per group for a power of 80 % at the relative difference `effect`", rank=2
        ),
        ReportColumn("users_a", "count", "users of A: by user_id, else session_id, else execution_id", rank=3),
        ReportColumn("users_b", "count", "users of B, counted like those of A", rank=3),
        ReportColumn("sample_ratio_p", "p", "chi-squared test of the split; below 0.001 the split is broken", rank=4),
        ReportColumn("users_in_both", "count", "users in both groups; the test counts each as two users", rank=4),
    ),
    sql=_compare,
    order="number",
    keys=("metric",),
    chart=Chart("differences", "metric", "difference", "Difference of B from A"),
    parameters=(
        ReportParameter("a", "String", None, "group A: a retriever_id"),
        ReportParameter("b", "String", None, "group B"),
        ReportParameter("of", "String", "retriever_id", "field that names the groups, such as metadata.variant"),
        ReportParameter(
            "share_b",
            "Float64",
            0.5,
            "expected share of users in B",
            at_least=0.001,
            at_most=0.999,
            sets="sample_ratio_p",
        ),
        ReportParameter(
            "effect",
            "Float64",
            0.05,
            "relative difference that users_needed is computed for",
            at_least=0.0001,
            sets="users_needed",
        ),
    ),
    groups_by="of",
    groups={"a": "users_a", "b": "users_b"},
    footnote="users: by user_id, else session_id, else execution_id; users_needed is per group",
    notes=_notes,
)
