"""Learned weights of one test: configurations and counts in the tables, without the processes that write them."""

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from learning.estimators.posterior import ResultCount
from learning.weights.counts import ContextKey
from runtime.clickhouse import ClickHouse
from schemas.learning_config import LearningConfig
from schemas.tables import LEARNING_CONFIGS, LEARNING_COUNTS, LEARNING_DAYS
from schemas.type_sets import type_set

COUNT_COLUMNS = (
    *("namespace", "retriever_id", "level", "context", "day", "generation", "feature_uri", "type_sets", "times"),
    "results",
)


def today() -> int:
    """Return today as days since 1970-01-01, UTC."""
    return int(time.time()) // 86_400


def count(feature: str, results: int = 1, age: int = 0, **times: int) -> ResultCount:
    """Return a count of results that each have these numbers of events by type."""
    sets = {type_set([name]): number for name, number in times.items()}
    return ResultCount(today() - age, feature, tuple(sorted(sets)), tuple(sets[each] for each in sorted(sets)), results)


async def publish_config(
    database: ClickHouse, retriever: str, config: LearningConfig | None, version: int = 1, namespace: str = "default"
) -> None:
    """Store a version of a configuration; None: its deletion."""
    row = {
        "namespace": namespace,
        "retriever_id": retriever,
        "version": version,
        "config": "" if config is None else config.model_dump_json(),
        "changed_at": "2026-11-28T00:00:00.000",
    }
    await database.insert_row(LEARNING_CONFIGS, row, json.dumps(row))


async def publish_counts(
    database: ClickHouse,
    retriever: str,
    counts: Mapping[ContextKey, Sequence[ResultCount]],
    generation: int = 1,
    namespace: str = "default",
) -> None:
    """Store counts of whole days under a generation, and publish it for their days."""
    rows = []
    for key, found in counts.items():
        for each in found:
            values = (namespace, retriever, *key, each.day, generation, *each[1:])
            rows.append(dict(zip(COUNT_COLUMNS, values, strict=True)))
    if not rows:
        return
    await database.insert_lines(LEARNING_COUNTS, COUNT_COLUMNS, _lines(rows), uuid.uuid4().hex)
    days = sorted({each.day for found in counts.values() for each in found})
    published = [
        {"namespace": namespace, "retriever_id": retriever, "day": day, "generation": generation} for day in days
    ]
    await database.insert_lines(LEARNING_DAYS, [*published[0]], _lines(published), uuid.uuid4().hex)


def _lines(rows: Sequence[Mapping[str, Any]]) -> bytes:
    return "\n".join(map(json.dumps, rows)).encode()
