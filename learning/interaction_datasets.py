"""Evaluation datasets that are computed from interactions: queries with the documents that users reacted to.

A dataset is a function of its definition, of the log and of the deletions. The definition names a range of event time
and, by the end offset of each partition, the part of the log that was stored when the dataset was created: later events
do not enter it. It is computed whenever it is read, so an erased user leaves it, and so do events that retention
removes.

An interaction counts for a query if it has a positive type. A document's grade is the highest reward of one such
interaction by the default reward map, rounded up, from 1 to 5: a click 1, a share or a positive feedback 2, a purchase
3. Documents that were never shown, or shown and ignored, are in no dataset: metrics count them as not relevant, so a
dataset favours the retriever that it comes from.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from learning.scope import LearningScope, Refusal
from runtime.analytics import bounded_stream, range_errors, report_limits
from runtime.clickhouse import ClickHouse
from runtime.settings import Settings
from schemas.analytics.base import EVERYTHING, RANGE, query_text, reward_of, select_per_result
from schemas.event_time import iso_ms, parse_time_or_day
from schemas.rewards import DEFAULT_REWARDS
from schemas.tables import INTERACTIONS

POSITIVE_TYPES = ("click", "purchase", "positive_feedback", "bookmark", "share")
"""Types that count by default."""
MAX_GRADE = 5
_NONE = -1_000.0
"""Reward of an event without a positive type, below that of any event."""


class DatasetDefinition(NamedTuple):
    """Everything that the content of a generated dataset depends on, besides the log and the deletions."""

    retriever: str
    since: datetime
    until: datetime
    min_interactions: int
    positive_types: tuple[str, ...]
    query_path: tuple[str, ...]
    ends: Mapping[str, int]
    """End offset of each partition (`topic:number`) of which events were stored at the creation."""

    def as_json(self) -> str:
        """Return the definition as JSON."""
        return json.dumps({**self._asdict(), "since": iso_ms(self.since), "until": iso_ms(self.until)})

    @classmethod
    def read(cls, text: str) -> "DatasetDefinition":
        """Return the definition that `as_json` has written."""
        found = json.loads(text)
        times = {name: parse_time_or_day(found[name]) for name in ("since", "until")}
        texts = {name: tuple(found[name]) for name in ("positive_types", "query_path")}
        return cls(**{**found, **times, **texts})

    def scope(self, namespace: str) -> LearningScope:
        """Return the results that the dataset is computed from."""
        return LearningScope(namespace, self.retriever, self.since, self.until, query_path=self.query_path)


class DatasetQuery(NamedTuple):
    """Query with the grades of its relevant documents, the best first."""

    text: str
    grades: Mapping[str, int]


async def end_offsets(settings: Settings, database: ClickHouse, scope: LearningScope) -> dict[str, int]:
    """Return the end offset of each partition that has stored events in the range of a scope."""
    sql = (
        f"SELECT concat(_topic, ':', toString(_partition)) AS place, max(_offset) + 1 FROM {INTERACTIONS} "
        f"WHERE {RANGE} GROUP BY place ORDER BY place"
    )
    with range_errors(settings, "the dataset"):
        found = await database.rows(sql, scope.parameters(), limits=report_limits(settings))
    return {str(place): int(end) for place, end in found}


async def generate(
    settings: Settings, database: ClickHouse, namespace: str, definition: DatasetDefinition
) -> list[DatasetQuery]:
    """Return the queries with enough positive interactions, those with most first.

    Raises Refusal for more than TALLY_EVALUATION_QUERIES or TALLY_EVALUATION_BYTES of them, and RangeTooLarge.
    """
    most = settings.evaluation_queries
    sql = f"""
SELECT query, groupArray((feature_id, reward)) AS documents
FROM (
    SELECT {query_text(definition.query_path, "snapshot")} AS query, feature_id, sum(positives) AS interactions,
        max(top_reward) AS reward
    FROM ({_select_positive()})
    WHERE positives > 0 AND retriever = {{retriever:String}}
    GROUP BY query, feature_id
)
WHERE query != ''
GROUP BY query
HAVING sum(interactions) >= {{min_interactions:UInt64}}
ORDER BY sum(interactions) DESC, query
LIMIT {most + 1}
FORMAT JSONCompactEachRow"""
    lines = (await _bounded(settings, database, sql, _parameters(namespace, definition))).splitlines()
    if len(lines) > most:
        raise Refusal(f"more than {most:,} queries (TALLY_EVALUATION_QUERIES): raise min_interactions")
    return [DatasetQuery(text, _grades(documents)) for text, documents in map(json.loads, lines)]


async def refuse_empty(settings: Settings, database: ClickHouse, namespace: str, definition: DatasetDefinition) -> None:
    """Raise Refusal with the reason for which a definition gives no query."""
    text = query_text(definition.query_path, "snapshot")
    sql = f"""
SELECT count(), countIf(positives > 0), countIf(positives > 0 AND {text} != '')
FROM ({_select_positive()})
WHERE retriever = {{retriever:String}}"""
    with range_errors(settings, "the dataset"):
        ((results, positive, with_text),) = await database.rows(
            sql, _parameters(namespace, definition), limits=report_limits(settings)
        )
    name = definition.retriever[:60]
    if not results:
        raise Refusal(f"retriever {name!r} has no results in this range")
    if not positive:
        raise Refusal(
            f"the {results:,} results of retriever {name!r} in this range have no interaction of the types "
            f"{', '.join(definition.positive_types)}"
        )
    if not with_text:
        path = ".".join(definition.query_path)
        raise Refusal(
            f"the {positive:,} results with positive interactions have no query text in query_snapshot.{path} "
            "(TALLY_QUERY_TEXT_PATH)"
        )
    raise Refusal(
        f"no query has {definition.min_interactions:,} positive interactions; {with_text:,} results have one: lower "
        "min_interactions, or choose a longer range"
    )


def query_id(text: str) -> str:
    """Return the id of a query: the same for the same text in every dataset."""
    return f"q_{hashlib.sha256(text.encode()).hexdigest()[:24]}"


def query_input(path: Sequence[str], text: str) -> dict[str, Any]:
    """Return the input of a query in the form of `query_snapshot`."""
    found: Any = text
    for key in reversed(path):
        found = {key: found}
    return dict(found)


def _select_positive() -> str:
    """Select a row for each result, with the number and the highest reward of its positive interactions."""
    is_positive = "hasAny(interaction_type, {types:Array(String)})"
    is_logged = (
        "_offset < {ends:Array(UInt64)}[indexOf({places:Array(String)}, concat(_topic, ':', toString(_partition)))]"
    )
    return select_per_result(
        EVERYTHING,
        more={"top_reward": f"if({is_positive}, {reward_of(DEFAULT_REWARDS)}, {_NONE})"},
        within=f"{RANGE} AND {is_logged}",
        sums={"positives": is_positive},
    )


def _parameters(namespace: str, definition: DatasetDefinition) -> dict[str, Any]:
    return {
        **definition.scope(namespace).parameters(),
        "types": list(definition.positive_types),
        "places": [*definition.ends],
        "ends": [*definition.ends.values()],
        "min_interactions": definition.min_interactions,
    }


async def _bounded(settings: Settings, database: ClickHouse, sql: str, parameters: Mapping[str, Any]) -> bytes:
    """Return the result of a statement. Raises Refusal for one that is larger than TALLY_EVALUATION_BYTES."""
    found = bytearray()
    with range_errors(settings, "the dataset"):
        async with bounded_stream(settings, database, sql, parameters) as pieces:
            async for piece in pieces:
                found += piece
                if len(found) > settings.evaluation_bytes:
                    raise Refusal(
                        f"the dataset is larger than {settings.evaluation_bytes:,} bytes (TALLY_EVALUATION_BYTES): "
                        "raise min_interactions, or choose a shorter range"
                    )
    return bytes(found)


def _grades(documents: Sequence[tuple[str, float]]) -> dict[str, int]:
    graded = {document: min(MAX_GRADE, max(1, math.ceil(reward))) for document, reward in documents}
    return dict(sorted(graded.items(), key=lambda pair: (-pair[1], pair[0])))
