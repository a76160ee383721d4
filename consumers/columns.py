"""Columns: events and outcomes as Arrow tables in the form of `schemas/tables.py`."""

from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
from msgspec import Raw

from consumers.batch import Duplicate, Event, Rejected
from schemas.event_time import from_epoch_ms
from schemas.wire import NULL

MAX_MESSAGE_CHARACTERS = 2_000

_MILLISECONDS = pa.timestamp("ms", tz="UTC")


def _json_text(raw: Raw) -> bytes:
    """The object's own bytes, empty for null."""
    if raw is NULL:
        return b""
    text = bytes(raw)
    return b"" if text == b"null" else text


def _shown_occurred_at(event: Event) -> int | None:
    """A future event time is shown as the time of recording; deduplication keeps the real one."""
    return None if event.wire.occurred_at is None else min(event.event_ms, event.append_ms)


_INTERACTION_COLUMNS: dict[str, tuple[pa.DataType, Callable[[Event], Any]]] = {
    "namespace": (pa.string(), lambda event: event.namespace),
    "interaction_id": (pa.string(), lambda event: event.interaction_id),
    "feature_id": (pa.string(), lambda event: event.wire.feature_id),
    "interaction_type": (pa.list_(pa.string()), lambda event: event.wire.interaction_type),
    "position": (pa.uint32(), lambda event: event.wire.position),
    "metadata": (pa.binary(), lambda event: _json_text(event.wire.metadata)),
    "user_id": (pa.string(), lambda event: event.wire.user_id),
    "session_id": (pa.string(), lambda event: event.wire.session_id),
    "execution_id": (pa.string(), lambda event: event.wire.execution_id),
    "retriever_id": (pa.string(), lambda event: event.wire.retriever_id),
    "query_snapshot": (pa.binary(), lambda event: _json_text(event.wire.query_snapshot)),
    "document_score": (pa.float64(), lambda event: event.wire.document_score),
    "result_set_size": (pa.uint32(), lambda event: event.wire.result_set_size),
    "feature_uri": (pa.string(), lambda event: event.wire.feature_uri),
    "occurred_at": (_MILLISECONDS, _shown_occurred_at),
    "timestamp": (_MILLISECONDS, lambda event: event.append_ms),
    "_event_time_ms": (pa.int64(), lambda event: event.event_ms),
    "_idempotency_key": (pa.string(), lambda event: event.idempotency_key or ""),
    "_partition": (pa.uint32(), lambda event: event.partition),
    "_offset": (pa.uint64(), lambda event: event.offset),
}


def interaction_rows(topic: str, events: Sequence[Event]) -> pa.Table:
    """The rows of `interactions` for these events."""
    columns = {
        name: pa.array([read(event) for event in events], kind) for name, (kind, read) in _INTERACTION_COLUMNS.items()
    }
    return pa.table({**columns, "_topic": pa.array([topic] * len(events), pa.string())})


_OUTCOME_COLUMNS: dict[str, pa.DataType] = {
    "namespace": pa.string(),
    "interaction_id": pa.string(),
    "_topic": pa.string(),
    "_partition": pa.uint32(),
    "_offset": pa.uint64(),
    "verdict": pa.string(),
    "duplicate_of": pa.string(),
    "reason": pa.string(),
    "field": pa.string(),
    "message": pa.string(),
    "user_id": pa.string(),
    "execution_id": pa.string(),
    "timestamp": _MILLISECONDS,
    "_event_time_ms": pa.int64(),
}


def outcome_rows(topic: str, duplicates: Sequence[Duplicate], rejected: Sequence[Rejected]) -> pa.Table:
    """The rows of `outcomes`: one per event that was not stored."""
    rows: list[dict[str, Any]] = [
        {
            "namespace": event.namespace,
            "interaction_id": event.interaction_id,
            "_topic": topic,
            "_partition": event.partition,
            "_offset": event.offset,
            "verdict": "duplicate",
            "duplicate_of": duplicate_of,
            "reason": reason,
            "field": "",
            "message": "",
            "user_id": event.wire.user_id,
            "execution_id": event.wire.execution_id,
            "timestamp": from_epoch_ms(event.append_ms),
            "_event_time_ms": event.event_ms,
        }
        for event, duplicate_of, reason in duplicates
    ]
    rows += [
        {
            "namespace": item.namespace,
            "interaction_id": item.interaction_id,
            "_topic": topic,
            "_partition": item.partition,
            "_offset": item.offset,
            "verdict": "rejected",
            "duplicate_of": "",
            "reason": item.rejection.reason,
            "field": item.rejection.field,
            "message": item.rejection.message[:MAX_MESSAGE_CHARACTERS],
            "user_id": None,
            "execution_id": None,
            "timestamp": from_epoch_ms(item.record.timestamp),
            "_event_time_ms": 0,
        }
        for item in rejected
    ]
    return pa.Table.from_pylist(rows, schema=pa.schema(_OUTCOME_COLUMNS))
