"""Statements of counts: the count of one day, and the looks for touched days."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from learning.weights.count_progress import CountShape, Ends
from learning.weights.counts import SEGMENT_SEPARATOR
from runtime.analytics import range_parameters
from schemas.analytics.base import EXECUTION, RANGE
from schemas.sql_text import literal
from schemas.tables import INTERACTIONS, LEARNING_COUNTS, LEARNING_DAYS, LEDGER, TOPICS
from schemas.type_sets import TYPE_SET_SQL

_DAY_0 = datetime(1970, 1, 1, tzinfo=UTC)

_DAY = "toUInt16(toDate(event_time))"
_TEACHES = "ifNull(feature_uri, '') != ''"
SELECT_EXPIRED = (
    f"SELECT _topic, toUInt32(max(month)) AS month FROM {LEDGER} WHERE verdict IN ('stored', 'deleted') GROUP BY _topic"
)
"""Last month by topic whose events retention has counted: its rows count as gone, deleted or not."""
_EXPIRED_MONTHS = (
    f"(SELECT CAST((groupArray(_topic), groupArray(month)), 'Map(String, UInt32)') FROM ({SELECT_EXPIRED}))"
)
_IS_KEPT = f"toYYYYMM(timestamp) > {_EXPIRED_MONTHS}[toString(_topic)]"

COUNT_COLUMNS = "level, context, feature_uri, type_sets, times, results"
_COUNT_KEY = "namespace = {namespace:String} AND retriever_id = {retriever:String} AND day = toDate({day:Int32})"


def day_parameters(namespace: str, retriever: str, day: int) -> dict[str, Any]:
    """Return the bound parameters of the statements for one day (days since 1970-01-01)."""
    since = _DAY_0 + timedelta(days=day)
    in_range = range_parameters(namespace, since, since + timedelta(days=1))
    return {**in_range, "retriever": retriever, "day": day}


def select_count(shape: CountShape) -> str:
    """Select COUNT_COLUMNS of one day: equal results by context.

    A result is the events of one (execution, feature_id, feature_uri) within the day. Its user and its segment are the
    largest texts among its events.
    """
    user = "ifNull(user_id, '')" if shape.is_personal else "''"
    return f"""
SELECT
    context_of.1 AS level, context_of.2 AS context, uri AS feature_uri, counts.1 AS type_sets, counts.2 AS times,
    count() AS results
FROM (
    SELECT uri, max(user_text) AS user, max(segment_text) AS segment, sumMap([types], [toUInt64(1)]) AS counts
    FROM (
        SELECT
            {EXECUTION} AS execution, feature_id, assumeNotNull(feature_uri) AS uri, {TYPE_SET_SQL} AS types,
            {user} AS user_text, {_segment(shape)} AS segment_text
        FROM {INTERACTIONS} FINAL
        WHERE {RANGE} AND retriever_id = {{retriever:String}} AND {_TEACHES} AND {_IS_KEPT}
    )
    GROUP BY execution, feature_id, uri
)
ARRAY JOIN arrayFilter(
    x -> x.1 = 'global' OR x.2 != '', [('global', ''), ('personal', user), ('segment', segment)]
) AS context_of
GROUP BY ALL"""


def insert_count(selected: str) -> str:
    """Insert the count of a day, as selected, as a generation."""
    return f"""
INSERT INTO {LEARNING_COUNTS} (namespace, retriever_id, day, generation, {COUNT_COLUMNS})
SELECT {{namespace:String}}, {{retriever:String}}, toDate({{day:Int32}}), {{generation:UInt64}}, {COUNT_COLUMNS}
FROM ({selected})"""


SELECT_IN_FORCE = f"""
SELECT toString(level) AS level, context, feature_uri, type_sets, times, results FROM {LEARNING_COUNTS} FINAL
WHERE {_COUNT_KEY} AND generation = (SELECT max(generation) FROM {LEARNING_DAYS} WHERE {_COUNT_KEY})"""
"""Select COUNT_COLUMNS of one day as they are in force."""


def select_difference(shape: CountShape | None) -> str:
    """Select one row if the counts in force of a day differ from a count of its events; `None`: from no rows."""
    counted = f"SELECT {COUNT_COLUMNS}, 1 AS side FROM ({select_count(shape)}) UNION ALL" if shape else ""
    return f"""
SELECT 1 FROM ({counted} SELECT {COUNT_COLUMNS}, -1 AS side FROM ({SELECT_IN_FORCE}))
GROUP BY {COUNT_COLUMNS} HAVING sum(side) != 0 LIMIT 1"""


# Tombstones have no retriever and no feature. Expired ones may leave the table at any time, so they do not count.
SELECT_TOMBSTONES = f"""
SELECT {_DAY} AS day, uniqExact(_topic, _partition, _offset) FROM {INTERACTIONS}
PREWHERE is_deleted = 1 WHERE namespace = {{namespace:String}} AND {_IS_KEPT} GROUP BY day"""

SELECT_EVENT_DAYS = f"""
SELECT DISTINCT retriever_id AS retriever, {_DAY} AS day FROM {INTERACTIONS}
WHERE namespace = {{namespace:String}} AND retriever_id IN {{retrievers:Array(String)}} AND {_TEACHES}"""
"""Select the days of retrievers that have events."""

SELECT_COUNTED_DAYS = f"""
SELECT DISTINCT retriever_id, toUInt16(day) FROM {LEARNING_DAYS} WHERE namespace = {{namespace:String}}"""


SELECT_PARTITIONS = f"SELECT topic, partitions FROM {TOPICS} FINAL"


def select_ends(ends: Ends) -> tuple[str, dict[str, Any]]:
    """Select topic, partition and highest offset of partitions with new rows, and bind the lowest known end.

    The end of a partition without rows is 0: while there is one, everything is read.
    """
    lowest = min((end for of_topic in ends.values() for end in of_topic), default=0)
    sql = f"SELECT _topic, _partition, max(_offset) FROM {INTERACTIONS} WHERE _offset >= {{lowest:UInt64}} GROUP BY ALL"
    return sql, {"lowest": lowest}


def select_new_events(before: Ends, overlap_before: int, now: Ends, overlap: int) -> tuple[str, dict[str, Any]]:
    """Select retriever, day, and the numbers of its events: new ones, those of the tail before, those of the tail now.

    Only offsets below `now` are read. The namespace and the retrievers are to be bound besides.
    """
    known = {topic: before.get(topic, ()) for topic in now}
    tails = {topic: _lower(ends, overlap_before) for topic, ends in known.items()}
    tails_now = {topic: _lower(ends, overlap) for topic, ends in now.items()}
    lowest = min(
        (
            min(tails[topic][part] if part < len(tails[topic]) else 0, tails_now[topic][part])
            for topic, ends in now.items()
            for part in range(len(ends))
            if ends[part]
        ),
        default=0,
    )
    values: dict[str, Any] = {"lowest": lowest, "topics": sorted(now)}
    known_end, tail_begin, tail_now, end_now = (
        _by_place(name, offsets, values)
        for name, offsets in (("known", known), ("tail", tails), ("tail_now", tails_now), ("end", now))
    )
    sql = f"""
SELECT
    ifNull(retriever_id, '') AS retriever, {_DAY} AS day, countIf(_offset >= {known_end}) AS fresh,
    countIf(_offset >= {tail_begin} AND _offset < {known_end}), countIf(_offset >= {tail_now})
FROM {INTERACTIONS} FINAL
WHERE namespace = {{namespace:String}} AND _offset >= {{lowest:UInt64}} AND _offset < {end_now}
    AND retriever IN {{retrievers:Array(String)}} AND {_TEACHES}
GROUP BY retriever, day"""
    return sql, values


def _by_place(name: str, offsets: Ends, values: dict[str, Any]) -> str:
    """Return an expression of the offset of a row's partition, 0 for a partition without one; bind the offsets."""
    branches = []
    for number, (topic, of_topic) in enumerate(sorted(offsets.items())):
        values[f"{name}_{number}"] = list(of_topic)
        values[f"topic_{number}"] = topic
        branches.append(f"_topic = {{topic_{number}:String}}, {{{name}_{number}:Array(UInt64)}}[_partition + 1]")
    return f"multiIf({', '.join(branches)}, toUInt64(0))" if branches else "toUInt64(0)"


def _lower(ends: tuple[int, ...], overlap: int) -> tuple[int, ...]:
    return tuple(max(0, end - overlap) for end in ends)


def _segment(shape: CountShape) -> str:
    """Return the text of an event's segment: the texts at the paths, joined; empty unless all are there."""
    if not shape.segment_paths:
        return "''"
    paths = [", ".join(map(literal, path)) for path in shape.segment_paths]
    texts = ", ".join(
        f"if(JSONType(metadata, {path}) = 'String', JSONExtractString(metadata, {path}), '')" for path in paths
    )
    joined = f"arrayStringConcat([{texts}], {literal(SEGMENT_SEPARATOR)})"
    return f"if(has([{texts}], ''), '', toValidUTF8({joined}))"


def merged_ends(before: Ends, found: Mapping[tuple[str, int], int]) -> Ends:
    """Return the ends after the highest offsets, by topic and partition, that `select_ends` found."""
    ends = {topic: list(known) for topic, known in before.items()}
    for (topic, partition), highest in sorted(found.items()):
        of_topic = ends.setdefault(topic, [])
        of_topic += [0] * (partition + 1 - len(of_topic))
        of_topic[partition] = max(of_topic[partition], highest + 1)
    return {topic: tuple(of_topic) for topic, of_topic in sorted(ends.items())}


def days_by_retriever(rows: Iterable[Sequence[Any]]) -> dict[str, frozenset[int]]:
    """Return the days of rows of SELECT_EVENT_DAYS or SELECT_COUNTED_DAYS."""
    days: dict[str, set[int]] = defaultdict(set)
    for retriever, day in rows:
        days[retriever].add(int(day))
    return {name: frozenset(found) for name, found in days.items()}
