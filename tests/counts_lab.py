"""Counts of learned weights in tests: stored events, configurations, the reference, and a count that sums on insert."""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from clickhouse_connect.driver.client import Client

from learning.weights import count_sql
from learning.weights.aggregates import CountedDay, DayCounter, RoundResult
from learning.weights.count_look import LogLook
from learning.weights.count_progress import CountProgress, CountShape, RetrieverDays
from runtime.clickhouse import ClickHouse, connect
from runtime.settings import Settings
from schemas.learning_config import LearningConfig
from schemas.tables import LEARNING_CONFIGS
from schemas.type_sets import type_set
from tests.lab import Lab

NAMESPACE = "default"
RETRIEVER = "hybrid"
DAY = datetime(2026, 2, 1, tzinfo=UTC)
DAY_NUMBER = (DAY - datetime(1970, 1, 1, tzinfo=UTC)).days
PERSONAL = CountShape(is_personal=True, segment_paths=())

Row = dict[str, Any]
CountRow = tuple[str, str, str, int, str, tuple[int, ...], tuple[int, ...], int]
"""Retriever, level, context, day, feature, type sets, times, results."""


class StoredLog:
    """Events as rows of `interactions`, each at the next offset of its partition."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.rows: list[Row] = []
        self._ends: Counter[int] = Counter()

    def row(
        self,
        document: str = "doc-1",
        kind: str | Sequence[str] = "impression",
        *,
        day: int = 0,
        second: float = 0,
        partition: int = 0,
        appended: datetime | None = None,
        **fields: Any,
    ) -> Row:
        """An event at a second of a day after DAY, by default appended at once; not stored yet."""
        happened = DAY + timedelta(days=day, seconds=second)
        offset = self._ends[partition]
        self._ends[partition] += 1
        metadata = fields.pop("metadata", None)
        row = {
            "namespace": NAMESPACE, "interaction_id": f"int_{len(self.rows):032x}", "feature_id": document,
            "interaction_type": [kind] if isinstance(kind, str) else list(kind), "position": 0,
            "execution_id": "e1", "retriever_id": RETRIEVER, "feature_uri": "text", "user_id": None,
            "metadata": json.dumps(metadata) if metadata else "",
            "timestamp": (appended or happened).timestamp(), "_event_time_ms": round(happened.timestamp() * 1000),
            "_topic": "t", "_partition": partition, "_offset": offset, **fields,
        }  # fmt: skip
        self.rows.append(row)
        return row

    async def store(self, *rows: Row) -> None:
        """Insert rows, also repeatedly."""
        body = "\n".join(map(json.dumps, rows)).encode()
        await self.lab.database._call(partial(_insert, [*rows[0]], body))


def _insert(columns: Sequence[str], body: bytes, client: Client) -> None:
    client.raw_insert("interactions", columns, body, fmt="JSONEachRow")


class Configurations:
    """Learning configurations of one test."""

    def __init__(self, database: ClickHouse) -> None:
        self._database = database
        self._versions: Counter[tuple[str, str]] = Counter()

    async def put(self, retriever: str = RETRIEVER, namespace: str = NAMESPACE, **fields: Any) -> None:
        """Put a configuration in force."""
        await self._write(namespace, retriever, LearningConfig(**fields).model_dump_json())

    async def delete(self, retriever: str = RETRIEVER, namespace: str = NAMESPACE) -> None:
        """Delete a configuration."""
        await self._write(namespace, retriever, "")

    async def _write(self, namespace: str, retriever: str, text: str) -> None:
        self._versions[namespace, retriever] += 1
        version = self._versions[namespace, retriever]
        row = {"namespace": namespace, "retriever_id": retriever, "version": version, "config": text}
        row |= {"changed_at": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}"}
        await self._database.insert_row(LEARNING_CONFIGS, row, f"{namespace} {retriever} {version}")


async def rows_in_force(database: ClickHouse) -> list[CountRow]:
    """All rows of counts that are in force in NAMESPACE, sorted."""
    rows = await database.rows("""
        SELECT retriever_id, toString(level), context, toUInt16(day), feature_uri, type_sets, times, results
        FROM learning_counts FINAL
        WHERE (namespace, retriever_id, day, generation) IN (
            SELECT namespace, retriever_id, day, max(generation) FROM learning_days GROUP BY ALL
        ) AND namespace = 'default'
    """)
    return sorted((*row[:5], tuple(row[5]), tuple(row[6]), int(row[7])) for row in rows)


async def counted_from_scratch(
    database: ClickHouse, shapes: Mapping[str, CountShape], since: datetime
) -> list[CountRow]:
    """Rows of counts as the reference computes them in Python from the stored events appended since a time, sorted."""
    events = await database.rows(
        "SELECT retriever_id, user_id, execution_id, interaction_id, feature_id, feature_uri, interaction_type, "
        "metadata, toUnixTimestamp64Milli(event_time) FROM interactions FINAL "
        "WHERE namespace = 'default' AND timestamp >= {since:DateTime64(3, 'UTC')}",
        {"since": since},
    )
    results: dict[Any, list[tuple[int, str, str]]] = defaultdict(list)
    for retriever, user, execution, interaction, document, feature, types, metadata, ms in events:
        if retriever in shapes and feature:
            shape = shapes[retriever]
            segment = _segment(json.loads(metadata or "{}"), shape)
            key = retriever, ms // 86_400_000, feature, execution or interaction, document
            results[key].append((type_set(types), (user or "") if shape.is_personal else "", segment))
    found: Counter[Any] = Counter()
    for (retriever, day, feature, _, _), of_result in results.items():
        times = sorted(Counter(types for types, _, _ in of_result).items())
        sets = tuple(each for each, _ in times), tuple(count for _, count in times)
        contexts = {"global": "", "personal": max(user for _, user, _ in of_result)}
        contexts["segment"] = max(segment for _, _, segment in of_result)
        for level, context in contexts.items():
            if context or level == "global":
                found[retriever, level, context, day, feature, *sets] += 1
    return sorted((*key, count) for key, count in found.items())


def _segment(metadata: Any, shape: CountShape) -> str:
    texts = []
    for path in shape.segment_paths:
        value = metadata
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        texts.append(value if isinstance(value, str) else "")
    return "|".join(texts) if all(texts) else ""


class SummingCounter(DayCounter):
    """Negative control: counts only events above the known offsets, and adds them to the counts in force."""

    _ends: Mapping[str, tuple[int, ...]] = {}

    async def run_round(
        self, namespace: str, log_look: LogLook, before: CountProgress, also: RetrieverDays | None = None
    ) -> RoundResult:
        """Remember the known offsets, then count as always."""
        self._ends = before.ends
        return await super().run_round(namespace, log_look, before, also)

    async def _count_day(self, namespace: str, generation: int, shape: CountShape | None, each: CountedDay) -> None:
        values = {**count_sql.day_parameters(namespace, each.retriever, each.day), "generation": generation}
        known = " OR ".join(
            f"(_topic = '{topic}' AND _partition = {partition} AND _offset < {end})"
            for topic, ends in self._ends.items()
            for partition, end in enumerate(ends)
        )
        new = count_sql.select_count(shape or PERSONAL).replace(
            " AND ifNull(feature_uri", f" AND NOT ({known or 0}) AND ifNull(feature_uri"
        )
        both = f"SELECT * FROM ({new}) UNION ALL SELECT * FROM ({count_sql.SELECT_IN_FORCE})"
        columns = "level, context, feature_uri, type_sets, times"
        summed = f"SELECT {columns}, sum(results) AS results FROM ({both}) GROUP BY {columns}"
        await self._database.command(count_sql.insert_count(summed), values)
        await self._publish(namespace, generation, each)


@asynccontextmanager
async def summing_counter(settings: Settings) -> Any:
    """Connect, and yield a counter that sums on insert."""
    async with connect(settings) as database:
        yield SummingCounter(settings, database)
