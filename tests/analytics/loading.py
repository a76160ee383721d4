"""Simulated events as rows of `interactions`, without Kafka: campaigns need millions of them."""

import itertools
import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any

from clickhouse_connect.driver.client import Client

from runtime.clickhouse import ClickHouse
from schemas.event_time import to_epoch_ms
from schemas.interaction import Interaction

BEGIN = datetime(2026, 3, 1, tzinfo=UTC)
STEP_MS = 1_000
"""Time between events that have no time of their own."""
ROWS_TOGETHER = 50_000
_PLAIN = (
    *("feature_id", "interaction_type", "position", "user_id", "session_id", "execution_id", "retriever_id"),
    *("document_score", "result_set_size", "feature_uri"),
)
_COLUMNS = (
    *("namespace", "interaction_id", *_PLAIN, "metadata", "query_snapshot", "timestamp", "_event_time_ms"),
    *("_topic", "_offset"),
)


async def load(
    database: ClickHouse, namespace: str, events: Iterable[Interaction], *, first: int = 0, **metadata: Any
) -> int:
    """Insert events, in the order of time, and return their number.

    `first`: number of the first event, for its id. `metadata`: further keys of each event.
    """
    rows, count = _rows(namespace, enumerate(events, first), metadata), 0
    while batch := list(itertools.islice(rows, ROWS_TOGETHER)):
        body = "\n".join(map(json.dumps, batch)).encode()
        await database._call(partial(_insert, body))
        count += len(batch)
    return count


def _insert(body: bytes, client: Client) -> None:
    client.raw_insert("interactions", _COLUMNS, body, fmt="JSONEachRow")


def _rows(
    namespace: str, events: Iterable[tuple[int, Interaction]], metadata: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    for number, event in events:
        ms = to_epoch_ms(event.occurred_at or BEGIN) + (0 if event.occurred_at else number % 10**9 * STEP_MS)
        yield {
            **{name: getattr(event, name) for name in _PLAIN},
            "namespace": namespace,
            "interaction_id": f"int_{number:032x}",
            "metadata": json.dumps({**(event.metadata or {}), **metadata}),
            "query_snapshot": json.dumps(event.query_snapshot) if event.query_snapshot else "",
            "timestamp": ms / 1000,
            "_event_time_ms": ms,
            "_topic": "simulated",
            "_offset": number,
        }
