"""Health of the tracking: faults in what a site sends, counted, each with examples and a remedy."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from schemas.analytics.base import (
    APPENDED_RANGE,
    EVERYTHING,
    EXECUTION_TYPES,
    RANGE,
    select_executions,
    select_per_result,
)
from schemas.analytics.definition import Report, ReportColumn, ReportParameter, ReportScope
from schemas.analytics.intervals import share
from schemas.sql_text import literal
from schemas.tables import INTERACTIONS, OUTCOMES

EXAMPLES = 3
CLOCK_SKEW_MS = 60_000
"""Largest time in milliseconds by which an event may be ahead of its append time."""
MAX_HOURS = 1_000_000
"""Most hours of a range that are checked for silence."""
LOOK_BACK_S = 3_600
"""Seconds before a range within which the impressions of its clicks are looked for."""

_SINCE = "{since:DateTime64(3, 'UTC')}"
_WITHIN = RANGE.replace(_SINCE, f"{_SINCE} - toIntervalSecond({LOOK_BACK_S})")
_IS_IN_RANGE = f"event_time >= {_SINCE}"


class HealthCheck(NamedTuple):
    """Check of the tracking. A share of faults above `limit` fails it; a limit of 1 never does."""

    name: str
    limit: float
    rule: str
    remedy: str
    example: Literal["event", "execution", "user", "hour"] = "event"
    """Kind of its examples; those of events are ids."""


CHECKS: tuple[HealthCheck, ...] = (
    HealthCheck(
        "executions_without_impressions",
        0.05,
        "an execution has events, but neither an impression nor zero_results",
        "send an impression for each result shown, and zero_results if there are none",
        "execution",
    ),
    HealthCheck(
        "clicks_without_impression",
        0.02,
        "a clicked result has no impression in its execution",
        "send impressions with the execution_id and feature_id of the clicks",
        "execution",
    ),
    HealthCheck(
        "positions_beyond_result_set",
        0.001,
        "position >= result_set_size",
        "send 0-based positions, and the number of results of the whole execution",
    ),
    HealthCheck("missing_execution_id", 0.01, "an event has no execution_id", "send the execution_id of the search"),
    HealthCheck(
        "missing_query",
        0.05,
        "an execution has no query text",
        "send query_snapshot.text with the impressions",
        "execution",
    ),
    HealthCheck("missing_feature_uri", 1, "an event about a result has no feature_uri", "send it for learned weights"),
    HealthCheck("missing_document_score", 1, "an impression has no document_score", "send the score of the retriever"),
    HealthCheck(
        "clock_ahead",
        0.001,
        f"occurred_at is more than {CLOCK_SKEW_MS // 1000} s later than the append time",
        "correct the sender's clock, or omit occurred_at for live events",
    ),
    HealthCheck(
        "duplicates",
        0.2,
        "an event repeats a stored one",
        "examples are the owners with the most duplicates: find why the page sends them again",
    ),
    HealthCheck("rejected", 0.01, "an event is invalid", "look at the reasons: `tally dlq list`"),
    HealthCheck(
        "silent_hours",
        0.1,
        "an hour has no event, between the first event and the end of the range",
        "find out why the senders were silent",
        "hour",
    ),
    HealthCheck(
        "bots",
        0.005,
        "a user has more executions within an hour than `bot_executions`",
        "exclude the user: --where, or a filter in the sender",
        "user",
    ),
)


def _one(name: str, faults: str, total: str, examples: str) -> str:
    """Return a tuple for a check: name, faults, of how many, examples."""
    return f"({literal(name)}, toUInt64({faults}), toUInt64({total}), {examples})"


def _ids(column: str, condition: str) -> str:
    return f"groupArraySortedIf({EXAMPLES})({column}, {condition})"


def _of_rows(rows: str, checks: list[str]) -> str:
    return f"SELECT arrayJoin([{', '.join(checks)}]) AS found FROM ({rows})"


def _if(name: str, fault: str, base: str, example: str) -> str:
    return _one(name, f"countIf(({base}) AND ({fault}))", f"countIf({base})", _ids(example, f"({base}) AND ({fault})"))


def _events(chosen: ReportScope) -> str:
    of_result = f"notEmpty(arrayFilter(x -> x NOT IN {EXECUTION_TYPES}, interaction_type))"
    shown = "has(interaction_type, 'impression')"
    checks = [
        _if("positions_beyond_result_set", "position >= result_set_size", "result_set_size > 0", "interaction_id"),
        _if("missing_execution_id", "ifNull(execution_id, '') = ''", "1", "interaction_id"),
        _if("missing_feature_uri", "ifNull(feature_uri, '') = ''", of_result, "interaction_id"),
        _if("missing_document_score", "document_score IS NULL", shown, "interaction_id"),
        _if(
            "clock_ahead",
            f"_event_time_ms > toUnixTimestamp64Milli(timestamp) + {CLOCK_SKEW_MS}",
            "1",
            "interaction_id",
        ),
    ]
    silent = _one(
        "silent_hours",
        "hours - length(seen)",
        "hours",
        "arrayMap(x -> toString(toDateTime(x * 3600, 'UTC')), "
        f"arraySlice(arrayFilter(x -> NOT has(seen, x), range(first, first + hours)), 1, {EXAMPLES}))",
    )
    return f"""
SELECT found
FROM (
    SELECT
        arraySort(groupUniqArray(toUInt32(intDiv(toUnixTimestamp(event_time), 3600)))) AS seen, seen[1] AS first,
        if(empty(seen), 0, toUInt32(least({MAX_HOURS}, greatest(1 + seen[-1] - first,
            intDiv(toUnixTimestamp(least(now64(3), {{until:DateTime64(3, 'UTC')}})), 3600) - first)))) AS hours,
        arrayJoin([{", ".join([*checks, silent])}]) AS found
    FROM (SELECT *, event_time FROM {INTERACTIONS} FINAL WHERE {RANGE} AND {chosen.condition})
)"""


def _executions(chosen: ReportScope) -> str:
    more = {"has_execution": "ifNull(execution_id, '') != ''", "is_in_range": _IS_IN_RANGE}
    rows = f"SELECT * FROM ({select_executions(chosen.condition, chosen.path, more, _WITHIN)}) WHERE is_in_range"
    clicked = {"is_clicked_in_range": f"has(interaction_type, 'click') AND {_IS_IN_RANGE}"}
    of_results = select_per_result(chosen.condition, clicked, _WITHIN)
    searches = "results_shown > 0 OR zero_results"
    checks = [
        _if("executions_without_impressions", f"NOT ({searches})", "has_execution", "execution_id"),
        _if("missing_query", "query = ''", searches, "execution_id"),
    ]
    clicks = _if("clicks_without_impression", "NOT is_shown", "is_clicked_in_range", "execution")
    bots = f"""
SELECT {
        _one(
            "bots",
            "uniqExactIf(user_id, executions > {bot_executions:UInt32})",
            "uniqExact(user_id)",
            _ids("assumeNotNull(user_id)", "executions > {bot_executions:UInt32}"),
        )
    } AS found
FROM (
    SELECT user_id, max(executions) AS executions
    FROM (
        SELECT user_id, toStartOfHour(event_time, 'UTC') AS hour, count() AS executions
        FROM ({select_executions(chosen.condition, chosen.path)}) WHERE isNotNull(user_id) GROUP BY user_id, hour
    )
    GROUP BY user_id
)"""
    return f"{_of_rows(rows, checks)} UNION ALL {_of_rows(of_results, [clicks])} UNION ALL {bots}"


def _outcomes() -> str:
    """Return the checks of outcomes, by append time: outcomes have no event time."""
    owners = f"""
SELECT duplicate_of AS owner FROM {OUTCOMES} FINAL WHERE {APPENDED_RANGE} AND verdict = 'duplicate'
GROUP BY owner ORDER BY count() DESC, owner LIMIT {EXAMPLES}"""
    return f"""
SELECT arrayJoin([
    ('duplicates', duplicates, stored + duplicates, owners), ('rejected', rejected, stored + rejected, rejections)
]) AS found
FROM (
    SELECT countIf(verdict = 'duplicate') AS duplicates, countIf(verdict = 'rejected') AS rejected,
        (SELECT groupArray(owner) FROM ({owners})) AS owners,
        {_ids("interaction_id", "verdict = 'rejected'")} AS rejections,
        (SELECT count() FROM {INTERACTIONS} FINAL WHERE {APPENDED_RANGE}) AS stored
    FROM {OUTCOMES} FINAL
    WHERE {APPENDED_RANGE}
)"""


_NO_OUTCOMES = _of_rows("SELECT 1", [_one(name, "0", "0", "emptyArrayString()") for name in ("duplicates", "rejected")])
"""Checks of outcomes under a condition on events: outcomes lack most fields, so there is no data."""


def _notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the command that shows an example of each kind that a failing check has."""
    commands = {
        "executions": "`tally export interactions --where execution_id=ID`",
        "events": "`tally lookup ID`",
        "users": "`tally export interactions --where user_id=ID`",
    }
    failing = [row for row in rows if row["status"] == "fails" and row["examples"]]
    found = {kind: ", ".join(row["check"] for row in failing if row["examples_are"] == kind) for kind in commands}
    return [f"examples of {checks} are {kind}: {commands[kind]} shows one" for kind, checks in found.items() if checks]


def _health(chosen: ReportScope) -> str:
    names = [check.name for check in CHECKS]
    columns: Mapping[str, Sequence[float | str]] = {
        "allowed": [float(check.limit) for check in CHECKS],
        "rule": [check.rule for check in CHECKS],
        "remedy": [check.remedy for check in CHECKS],
        "examples_are": [f"{check.example}s" for check in CHECKS],
    }
    looked_up = ", ".join(
        f"[{', '.join(literal(value) if isinstance(value, str) else str(value) for value in values)}]"
        f"[indexOf({names}, found.1)] AS {name}"
        for name, values in columns.items()
    )
    parts = [_events(chosen), _executions(chosen), _outcomes() if chosen.condition == EVERYTHING else _NO_OUTCOMES]
    return f"""
SELECT found.1 AS check, {share("found.2", "found.3")} AS share, found.2 AS faults, found.3 AS of,
    {looked_up}, if(found.3 = 0, 'no data', if(share > allowed, 'fails', 'ok')) AS status, found.4 AS examples
FROM ({" UNION ALL ".join(parts)})"""


HEALTH = Report(
    name="health",
    question="Is the tracking broken?",
    columns=(
        ReportColumn("status", "text", "fails if the share is larger than allowed", rank=0),
        ReportColumn("check", "text", "name of the check", rank=0),
        ReportColumn("faults", "count", "events, results, executions, users or hours with the fault", rank=0),
        ReportColumn("of", "count", "events, results, executions, users or hours that were checked", rank=1),
        ReportColumn("share", "share", "faults / of", "of", rank=0),
        ReportColumn("allowed", "share", "largest share that passes", rank=3),
        ReportColumn("rule", "text", "fault that is counted", rank=2),
        ReportColumn("remedy", "text", "action that removes the fault", rank=1),
        ReportColumn("examples_are", "text", "kind of the examples: events, executions, users or hours", rank=3),
        ReportColumn("examples", "texts", f"at most {EXAMPLES} ids, or hours", rank=2),
    ),
    sql=_health,
    notes=_notes,
    order="status, share DESC, check",
    keys=("check",),
    total="of",
    parameters=(
        ReportParameter("bot_executions", "UInt32", 100, "maximum executions of a person within an hour", at_least=1),
    ),
)
