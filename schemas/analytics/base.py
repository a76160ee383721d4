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
EXECUTION_TYPES = ("zero_results", "query_refinement", "filter_toggle")
"""Types that say something about an execution and nothing about a result."""
REFINED_WITHIN_MS = 300_000
"""Largest time in milliseconds from an execution without a click to another query of the session that refines it."""
NDCG_DEPTH = 10
"""Positions that count in nDCG. It is 1 at most, also where several results have the same position."""
QUERY_TEXT_PATH: Sequence[str] = ("text",)
"""Default path of the query's text in `query_snapshot`."""

EXECUTION = "coalesce(nullIf(execution_id, ''), interaction_id)"
"""Execution of an event. An event without one is an execution of its own."""
_IS_IMPRESSION = "has(interaction_type, 'impression')"
_IS_CLICK = "has(interaction_type, 'click')"
_IS_REACTION = f"notEmpty(arrayFilter(x -> x NOT IN {('impression', *EXECUTION_TYPES)}, interaction_type))"
_IS_MORE = "notEmpty(arrayFilter(x -> x != 'impression', interaction_type))"


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
    condition: EventCondition = EVERYTHING, more: Mapping[str, str] | None = None, within: EventCondition = RANGE
) -> str:
    """Select a row for each execution and `feature_id`, those of events about the execution alone included.

    `more`: further columns by name, as expressions over an event; of each, the largest value.
    """
    further = "".join(f", max({expression}) AS {name}" for name, expression in (more or {}).items())
    return f"""
SELECT
    namespace, {EXECUTION} AS execution, feature_id,
    max(nullIf(interactions.retriever_id, '')) AS retriever, max(interactions.query_snapshot) AS snapshot,
    max(nullIf(interactions.user_id, '')) AS user, max(nullIf(interactions.session_id, '')) AS session,
    max({_IS_IMPRESSION}) AS is_shown, max({_IS_CLICK}) AS is_clicked, max({_IS_REACTION}) AS is_reacted_to,
    max({_IS_MORE}) AS is_more,
    max(has(interaction_type, 'purchase')) AS is_purchased,
    max(has(interaction_type, 'zero_results')) AS is_empty,
    max(has(interaction_type, 'query_refinement')) AS is_refined,
    if(is_shown, minIf(interactions.position, {_IS_IMPRESSION}), min(interactions.position)) AS place,
    max(interactions.document_score) AS score, max(interactions.feature_uri) AS uri,
    max(interactions.result_set_size) AS set_size, groupUniqArrayArray(interaction_type) AS types,
    sum({reward_of(DEFAULT_REWARDS)}) AS reward_sum,
    min(interactions.event_time) AS began_at, max(interactions.event_time) AS ended_at,
    minOrNullIf(interactions.event_time, {_IS_IMPRESSION}) AS shown_at,
    minOrNullIf(interactions.event_time, {_IS_CLICK}) AS clicked_at,
    minOrNullIf(interactions.event_time, {_IS_REACTION}) AS reacted_at{further}
FROM {INTERACTIONS} FINAL
WHERE {within} AND {condition}
GROUP BY namespace, execution, feature_id"""


def select_results(
    condition: EventCondition = EVERYTHING, path: Sequence[str] = QUERY_TEXT_PATH, within: EventCondition = RANGE
) -> str:
    """Select a row for each result of an execution."""
    return f"""
SELECT
    namespace, execution AS execution_id, feature_id, began_at AS event_time, retriever AS retriever_id,
    {query_text(path, "snapshot")} AS query, user AS user_id, session AS session_id, place AS position,
    score AS document_score, uri AS feature_uri, set_size AS result_set_size,
    is_shown AS shown, is_clicked AS clicked, is_purchased AS purchased, arraySort(types) AS interaction_types,
    reward_sum AS reward,
    if(reacted_at >= shown_at, date_diff('millisecond', shown_at, reacted_at), NULL) AS ms_to_first_interaction
FROM ({select_per_result(condition, within=within)})
WHERE is_shown OR is_reacted_to"""


def select_executions(
    condition: EventCondition = EVERYTHING,
    path: Sequence[str] = QUERY_TEXT_PATH,
    more: Mapping[str, str] | None = None,
    within: EventCondition = RANGE,
) -> str:
    """Select a row for each execution. `more`: as in `select_per_result`."""
    further = "".join(f", max({name}) AS {name}" for name in (more or {}))
    return f"""
SELECT
    namespace, execution_id, event_time, ended_at, retriever_id, query, user_id, session_id, results_shown,
    result_set_size, clicks, first_click_position, highest_click_position,
    if(clicks = 0, 0, 1 / (highest_click_position + 1)) AS reciprocal_rank,
    if(clicks = 0, 0, least(1, gain / arraySum(x -> 1 / log2(x + 2), range(least(clicks, {NDCG_DEPTH}))))) AS ndcg,
    ms_to_first_click, dwell_ms, zero_results, purchased,
    results_shown > 0 AND NOT is_more AS abandoned,
    is_refined OR (clicks = 0 AND has_other_query) AS refined,
    reward{"".join(f", {name}" for name in (more or {}))}
FROM (
    SELECT *,
        min(text_hash) OVER following != max(text_hash) OVER following AS has_other_query
    FROM (
        SELECT
            namespace, execution AS execution_id, min(began_at) AS event_time, max(per_result.ended_at) AS ended_at,
            max(retriever) AS retriever_id,
            {query_text(path, "max(snapshot)")} AS query, cityHash64(query) AS text_hash,
            max(user) AS user_id, max(session) AS session_id,
            sum(is_shown) AS results_shown, max(set_size) AS result_set_size, sum(is_clicked) AS clicks,
            argMinOrNullIf(place, clicked_at, is_clicked) AS first_click_position,
            minOrNullIf(place, is_clicked) AS highest_click_position,
            sumIf(1 / log2(place + 2), is_clicked AND place < {NDCG_DEPTH}) AS gain,
            min(clicked_at) AS first_clicked_at,
            if(first_clicked_at >= min(shown_at), date_diff('millisecond', min(shown_at), first_clicked_at), NULL)
                AS ms_to_first_click,
            date_diff('millisecond', first_clicked_at, ended_at) AS dwell_ms,
            max(is_empty) AS zero_results, max(is_purchased) AS purchased, max(is_refined) AS is_refined,
            max(is_more) AS is_more, sum(reward_sum) AS reward{further}
        FROM ({select_per_result(condition, more, within)}) AS per_result
        GROUP BY namespace, execution
    )
    WINDOW following AS (
        PARTITION BY namespace, ifNull(session_id, execution_id), results_shown > 0 OR zero_results
        ORDER BY toUnixTimestamp64Milli(event_time) RANGE BETWEEN CURRENT ROW AND {REFINED_WITHIN_MS} FOLLOWING
    )
)"""
