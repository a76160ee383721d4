"""Base views: `results`, a row for each result of an execution, and `executions`.

Their parameters are a namespace and a range of event time. They read FINAL within the range: a row that was inserted
twice counts once, deleted rows are gone, and a day's query reads a day. Where the events of an execution or result
disagree about a text, such as the retriever, the largest text is taken, so that repeated queries agree. An empty user
or session is none.
"""

from collections.abc import Mapping, Sequence

from schemas.interaction import InteractionType
from schemas.rewards import DEFAULT_REWARDS, MAX_REWARD
from schemas.sql_text import literal
from schemas.tables import INTERACTIONS

EventCondition = str
"""SQL expression over the columns of `interactions`, 0 or 1."""

EVERYTHING: EventCondition = "1"
RANGE = (
    "namespace = {namespace:String} "
    "AND event_time >= {since:DateTime64(3, 'UTC')} AND event_time < {until:DateTime64(3, 'UTC')}"
)
APPENDED_RANGE = RANGE.replace("event_time", "timestamp")
"""The range by append time: outcomes have no event time."""
EXECUTION_TYPES = ("zero_results", "query_refinement", "filter_toggle")
"""Types that say something about an execution and nothing about a result."""
REFINED_WITHIN_MS = 300_000
"""Largest time in milliseconds from an execution without a click to another query of the session that refines it."""
NDCG_DEPTH = 10
"""Positions that count in nDCG. It is 1 at most, also where several results have the same position."""
QUERY_TEXT_PATH: tuple[str, ...] = ("text",)
"""Default path of the query's text in `query_snapshot`."""

EXECUTION = "coalesce(nullIf(execution_id, ''), interaction_id)"
"""Execution of an event. An event without one is an execution of its own."""
IS_IMPRESSION = "has(interaction_type, 'impression')"
_IS_CLICK = "has(interaction_type, 'click')"
_IS_REACTION = f"notEmpty(arrayFilter(x -> x NOT IN {('impression', *EXECUTION_TYPES)}, interaction_type))"
_IS_MORE = "notEmpty(arrayFilter(x -> x != 'impression', interaction_type))"
_LARGEST_TEXTS = """
    max(nullIf(interactions.retriever_id, '')) AS retriever, max(interactions.query_snapshot) AS snapshot,
    max(nullIf(interactions.user_id, '')) AS user, max(nullIf(interactions.session_id, '')) AS session
""".strip()
_EVENT_OF_RESULT = (
    "Tuple(result UInt64, is_no_impression UInt8, position UInt32, is_click UInt8, at DateTime64(3, \\'UTC\\'))"
)


def reward_of(rewards: Mapping[InteractionType, float], most: float = MAX_REWARD) -> str:
    """Return the reward of an event: the sum of its types' rewards, at most `most` in absolute value."""
    names, values = [*rewards], [float(value) for value in rewards.values()]
    total = f"arraySum(x -> transform(x, {names}, {values}, 0.), interaction_type)"
    return f"greatest(-{most}, least({most}, {total}))"


def query_text(path: Sequence[str] = QUERY_TEXT_PATH, column: str = "query_snapshot") -> str:
    """Return the text of a query: NFKC, lower case, white space collapsed; empty if there is none."""
    found = f"JSONExtractString({column}, {', '.join(map(literal, path))})"
    return f"trimBoth(replaceRegexpAll(lowerUTF8(normalizeUTF8NFKC({found})), '\\\\s+', ' '))"


def select_per_result(
    condition: EventCondition = EVERYTHING,
    more: Mapping[str, str] | None = None,
    within: EventCondition = RANGE,
    sums: Mapping[str, str] | None = None,
) -> str:
    """Select a row for each execution and `feature_id`, those of events about the execution alone included.

    `more`: further columns by name, as expressions over an event; of each, the largest value. `sums`: of each, the
    sum.
    """
    further = "".join(f", max({expression}) AS {name}" for name, expression in (more or {}).items())
    further += "".join(f", sum({expression}) AS {name}" for name, expression in (sums or {}).items())
    return f"""
SELECT
    namespace, {EXECUTION} AS execution, feature_id,
    {_LARGEST_TEXTS},
    max({IS_IMPRESSION}) AS is_shown, max({_IS_CLICK}) AS is_clicked, max({_IS_REACTION}) AS is_reacted_to,
    max(has(interaction_type, 'purchase')) AS is_purchased,
    if(is_shown, minIf(interactions.position, {IS_IMPRESSION}), min(interactions.position)) AS place,
    max(interactions.document_score) AS score, max(interactions.feature_uri) AS uri,
    max(interactions.result_set_size) AS set_size, groupUniqArrayArray(interaction_type) AS types,
    sum({reward_of(DEFAULT_REWARDS)}) AS reward_sum,
    min(interactions.event_time) AS began_at,
    minOrNullIf(interactions.event_time, {IS_IMPRESSION}) AS shown_at,
    minOrNullIf(interactions.event_time, {_IS_REACTION}) AS reacted_at{further}
FROM {INTERACTIONS} FINAL
WHERE {within} AND {condition}
GROUP BY namespace, execution, feature_id"""


def select_results(
    condition: EventCondition = EVERYTHING,
    path: Sequence[str] = QUERY_TEXT_PATH,
    more: Mapping[str, str] | None = None,
    within: EventCondition = RANGE,
) -> str:
    """Select a row for each result of an execution.

    `more`: further columns by name, as expressions over an event; of each, the largest value.
    """
    further = "".join(f", {name}" for name in (more or {}))
    return f"""
SELECT
    namespace, execution AS execution_id, feature_id, began_at AS event_time, retriever AS retriever_id,
    {query_text(path, "snapshot")} AS query, user AS user_id, session AS session_id, place AS position,
    score AS document_score, uri AS feature_uri, set_size AS result_set_size,
    is_shown AS shown, is_clicked AS clicked, is_purchased AS purchased, arraySort(types) AS interaction_types,
    reward_sum AS reward,
    if(reacted_at >= shown_at, date_diff('millisecond', shown_at, reacted_at), NULL) AS ms_to_first_interaction{further}
FROM ({select_per_result(condition, more, within)})
WHERE is_shown OR is_reacted_to"""


def _select_per_execution(condition: EventCondition, more: Mapping[str, str], within: EventCondition) -> str:
    """Select a row for each execution. `clicked_results`: (time of its first click, position) of each clicked result.

    Events are grouped once: a first group for each result would compare its texts, which are those of the execution.
    Only executions with clicks get arrays of results. In the sorted events those of a result are consecutive, its
    impressions first, then by position: the position of the first event is that of the result.
    """
    further = "".join(f", max({expression}) AS {name}" for name, expression in more.items())
    return f"""
SELECT *,
    arraySort(if(is_clicked, events, [])) AS sorted,
    arraySplit((_, step) -> step != 0, sorted, arrayDifference(sorted.result)) AS by_result,
    arrayMap(
        x -> (arrayMin(arrayMap(y -> y.at, arrayFilter(y -> y.is_click, x))), x[1].position),
        arrayFilter(x -> arrayExists(y -> y.is_click, x), by_result)
    ) AS clicked_results
FROM (
    SELECT
        namespace, {EXECUTION} AS execution,
        {_LARGEST_TEXTS},
        groupArray(CAST(
            (cityHash64(feature_id), NOT {IS_IMPRESSION}, position, {_IS_CLICK}, interactions.event_time),
            '{_EVENT_OF_RESULT}'
        )) AS events,
        max({_IS_CLICK}) AS is_clicked, uniqExactIf(feature_id, {IS_IMPRESSION}) AS shown,
        max({_IS_MORE}) AS is_more,
        max(has(interaction_type, 'purchase')) AS is_purchased,
        max(has(interaction_type, 'zero_results')) AS is_empty,
        max(has(interaction_type, 'query_refinement')) AS is_refined,
        max(interactions.result_set_size) AS set_size,
        sum({reward_of(DEFAULT_REWARDS)}) AS reward_sum,
        min(interactions.event_time) AS began_at, max(interactions.event_time) AS last_at,
        minOrNullIf(interactions.event_time, {IS_IMPRESSION}) AS shown_at,
        minOrNullIf(interactions.event_time, {_IS_CLICK}) AS first_clicked_at{further}
    FROM {INTERACTIONS} FINAL
    WHERE {within} AND {condition}
    GROUP BY namespace, execution
)"""


def select_executions(
    condition: EventCondition = EVERYTHING,
    path: Sequence[str] = QUERY_TEXT_PATH,
    more: Mapping[str, str] | None = None,
    within: EventCondition = RANGE,
) -> str:
    """Select a row for each execution.

    `more`: further columns by name, as expressions over an event; of each, the largest value.
    """
    further = "".join(f", {name}" for name in (more or {}))
    return f"""
SELECT
    namespace, execution_id, event_time, ended_at, retriever_id, query, user_id, session_id, results_shown,
    result_set_size, clicks, first_click_position, highest_click_position,
    if(clicks = 0, 0, 1 / (highest_click_position + 1)) AS reciprocal_rank,
    if(clicks = 0, 0, least(1, gain / arraySum(x -> 1 / log2(x + 2), range(least(clicks, {NDCG_DEPTH}))))) AS ndcg,
    ms_to_first_click, dwell_ms, zero_results, purchased,
    results_shown > 0 AND NOT is_more AS abandoned,
    is_refined OR (clicks = 0 AND has_other_query) AS refined,
    reward{further}
FROM (
    SELECT *,
        min(text_hash) OVER following != max(text_hash) OVER following AS has_other_query
    FROM (
        SELECT
            namespace, execution AS execution_id, began_at AS event_time, last_at AS ended_at,
            retriever AS retriever_id,
            {query_text(path, "snapshot")} AS query, cityHash64(query) AS text_hash,
            user AS user_id, session AS session_id,
            shown AS results_shown, set_size AS result_set_size, length(clicked_results) AS clicks,
            if(clicks = 0, NULL, arraySort(clicked_results)[1].2) AS first_click_position,
            if(clicks = 0, NULL, arrayMin(clicked_results.2)) AS highest_click_position,
            arraySum(x -> if(x < {NDCG_DEPTH}, 1 / log2(x + 2), 0), clicked_results.2) AS gain,
            if(first_clicked_at >= shown_at, date_diff('millisecond', shown_at, first_clicked_at), NULL)
                AS ms_to_first_click,
            date_diff('millisecond', first_clicked_at, last_at) AS dwell_ms,
            is_empty AS zero_results, is_purchased AS purchased, is_refined, is_more, reward_sum AS reward{further}
        FROM ({_select_per_execution(condition, more or {}, within)})
    )
    WINDOW following AS (
        PARTITION BY namespace, ifNull(session_id, execution_id), results_shown > 0 OR zero_results
        ORDER BY toUnixTimestamp64Milli(event_time) RANGE BETWEEN CURRENT ROW AND {REFINED_WITHIN_MS} FOLLOWING
    )
)"""
