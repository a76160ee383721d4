"""Statements of training sets: the snapshot of the log, and the events of each execution."""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

from learning.training_request import TrainingRequest
from runtime.analytics import range_parameters
from schemas.analytics.base import EXECUTION, RANGE, query_text
from schemas.sql_text import literal
from schemas.tables import DELETIONS, INTERACTIONS

EVENT_COLUMNS = ("document", "is_other", "ms", "id", "position", "segment", "reward", "is_click")
"""Values of an event, in the order by which the events of an execution are sorted. Its features follow them."""

_END_OF_PART = (
    "transform(concat(_topic, '/', toString(_partition)), {places:Array(String)}, {ends:Array(Int64)}, toInt64(-1))"
)
_WITHIN = f"{RANGE} AND _offset <= {_END_OF_PART}"
_KIND = "Tuple(String, UInt8, Int64, String, UInt32, String, Int64, UInt8{features})"
_NUMERIC = ("Int64", "UInt64", "Double", "Bool")


class LogPart(NamedTuple):
    """Rows of one partition of the log that a training set may depend on: those stored when it was made."""

    topic: str
    partition: int
    first: int
    """Lowest offset."""
    last: int
    """Highest offset. Later events change nothing."""
    rows: int

    @property
    def place(self) -> str:
        """Topic and partition as one text."""
        return f"{self.topic}/{self.partition}"


def select_log_parts(*, until_the_last: bool) -> str:
    """Select the log parts of a range; `until_the_last`: only up to the recorded offsets."""
    return f"""
SELECT _topic, _partition, min(_offset), max(_offset), count() FROM {INTERACTIONS} FINAL
WHERE {_WITHIN if until_the_last else RANGE} GROUP BY _topic, _partition ORDER BY _topic, _partition
FORMAT JSONCompactEachRow"""


def select_deleted(ids: int) -> str:
    """Select the rows erased since `{created:Int64}` (ms), for each partition, with at most `ids` of their ids."""
    return f"""
SELECT _topic, _partition, uniqExact(interaction_id, _offset), arraySort(groupUniqArray({ids})(interaction_id))
FROM {INTERACTIONS}
WHERE {_WITHIN} AND is_deleted = 1 AND interaction_id IN (
    SELECT interaction_id FROM {DELETIONS}
    WHERE namespace = {{namespace:String}} AND toUnixTimestamp64Milli(deleted_at) >= {{created:Int64}}
)
GROUP BY _topic, _partition ORDER BY _topic, _partition
FORMAT JSONCompactEachRow"""


def range_of(request: TrainingRequest) -> dict[str, Any]:
    """Return the bound parameters of the range of events: up to the horizon after the last impression."""
    scope = request.scope
    read_until = scope.until + timedelta(milliseconds=request.horizon_ms + 1)
    return range_parameters(scope.namespace, scope.since, read_until)


def within(request: TrainingRequest, parts: Sequence[LogPart]) -> dict[str, Any]:
    """Return the bound parameters of the range of events up to the recorded offsets."""
    return {**range_of(request), "places": [part.place for part in parts], "ends": [part.last for part in parts]}


def select_events(request: TrainingRequest) -> str:
    """Select an execution a row, with its sorted events as arrays: EVENT_COLUMNS but the id, then f0, f1, ...

    Events that neither show a result nor carry a reward or click are left out. `is_other`: 0 for an impression in the
    scope, by its own retriever. Only impressions have features, and name the retriever and segment: a retriever named
    by clicks alone would select clicked executions. The query is that of the execution's first impression in the scope.
    """
    features = list(_features(request))
    kind = _KIND.format(features=", Nullable(Float64)" * len(features))
    values = ", ".join([
        "feature_id", "NOT is_shown", "toUnixTimestamp64Milli(event_time)", "interaction_id", "position",
        f"if(is_shown, {_segment(request)}, '')", "reward", "is_click",
        *(f"if(is_shown, {expression}, NULL)" for expression in features),
    ])  # fmt: skip
    names = [*EVENT_COLUMNS, *(f"f{number}" for number in range(len(features)))]
    arrays = ", ".join(f"events.{number} AS {name}" for number, name in enumerate(names, 1) if name != "id")
    return f"""
SELECT execution, began_ms, toValidUTF8({query_text(request.scope.query_path, "snapshot")}) AS query, {arrays}
FROM (
    SELECT
        execution, minIf(toUnixTimestamp64Milli(event_time), is_shown) AS began_ms,
        argMinIf(query_snapshot, (event_time, interaction_id), is_shown) AS snapshot,
        arraySort(groupArray(CAST(({values}), '{kind}'))) AS events
    FROM (
        SELECT
            *, event_time, {EXECUTION} AS execution, has(interaction_type, 'click') AS is_click,
            {_reward(request)} AS reward,
            has(interaction_type, 'impression') AND event_time < {{shown_until:DateTime64(3, 'UTC')}}
                AND ifNull(retriever_id, '') = {{retriever:String}} AS is_shown
        FROM {INTERACTIONS} FINAL WHERE {_WITHIN}
    )
    WHERE is_shown OR is_click OR reward != 0
    GROUP BY execution
    HAVING countIf(is_shown) > 0
)
ORDER BY began_ms, execution
FORMAT ArrowStream"""


def event_parameters(request: TrainingRequest, parts: Sequence[LogPart]) -> dict[str, Any]:
    """Return the bound parameters of `select_events`."""
    scope = request.scope
    shown = range_parameters(scope.namespace, scope.since, scope.until)
    return {**within(request, parts), "shown_until": shown["until"], "retriever": scope.retriever}


def _reward(request: TrainingRequest) -> str:
    """Return the reward of an event in millionths: the sum of its types' rewards, at most the cap in absolute value."""
    micros = request.rewards.in_micros()
    names, values = [*micros.rewards], [*micros.rewards.values()]
    total = (
        f"arraySum(x -> transform(x, {names}, CAST({values}, 'Array(Int64)'), toInt64(0)), interaction_type)"
        if names
        else "toInt64(0)"
    )
    return f"greatest(-{micros.most}, least({micros.most}, {total}))"


def _segment(request: TrainingRequest) -> str:
    path = ", ".join(map(literal, request.scope.segment_path))
    return f"toValidUTF8(JSONExtractString(metadata, {path}))" if path else "''"


def _features(request: TrainingRequest) -> Iterator[str]:
    """Yield the expression of each feature: a finite number, or NULL. A boolean is 0 or 1."""
    for name in request.features:
        head, *path = name.split(".")
        if not path:
            yield f"toFloat64({head})"
            continue
        keys = ", ".join(map(literal, path))
        number = f"JSONExtract(metadata, {keys}, 'Nullable(Float64)')"
        yield f"if(JSONType(metadata, {keys}) IN {_NUMERIC} AND isFinite({number}), {number}, NULL)"
