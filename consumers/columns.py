"""Columns: events and outcomes as Arrow tables in the form of `schemas/tables.py`."""

from collections.abc import Callable, Sequence
from itertools import chain
from operator import attrgetter
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from consumers.batch import Duplicate, Event, Rejected
from schemas.event_time import from_epoch_ms
from schemas.wire import NULL, WireEvent

MAX_MESSAGE_CHARACTERS = 2_000

_MILLISECONDS = pa.timestamp("ms", tz="UTC")

Column: TypeAlias = "pa.Array[Any]"


def _of_event(field: str, kind: pa.DataType) -> Callable[[Sequence[Event]], Column]:
    read = attrgetter(field)
    return lambda events: pa.array(list(map(read, events)), kind)


def _of_wire(field: str, kind: pa.DataType) -> Callable[[Sequence[WireEvent]], Column]:
    read = attrgetter(field)
    return lambda wires: pa.array(list(map(read, wires)), kind)


def _types(wires: Sequence[WireEvent]) -> Column:
    lists = [wire.interaction_type for wire in wires]
    ends = _ends(np.fromiter(map(len, lists), np.int64, len(lists)))
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(list(chain.from_iterable(lists)), pa.string()))


def _json_texts(field: str) -> Callable[[Sequence[WireEvent]], Column]:
    """Objects' own bytes, empty for null. Joined, because making `bytes` of a Raw takes longer than all the rest."""
    read = attrgetter(field)

    def column(wires: Sequence[WireEvent]) -> Column:
        texts = [b"" if raw is NULL else raw for raw in map(read, wires)]
        lengths = np.fromiter(map(len, texts), np.int64, len(texts))
        for at in np.flatnonzero(lengths == len(b"null")):
            if bytes(texts[at]) == b"null":
                texts[at], lengths[at] = b"", 0
        buffers = [None, pa.py_buffer(_ends(lengths).data), pa.py_buffer(b"".join(texts))]
        return pa.Array.from_buffers(pa.large_binary(), len(texts), buffers)

    return column


def _ends(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    ends = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=ends[1:])
    return ends


def _shown_occurred_at(event: Event) -> int | None:
    """A future event time is shown as the time of recording; deduplication keeps the real one."""
    return None if event.wire.occurred_at is None else min(event.event_ms, event.append_ms)


def _shown_occurred_ats(events: Sequence[Event]) -> Column:
    return pa.array(list(map(_shown_occurred_at, events)), _MILLISECONDS)


def _idempotency_keys(events: Sequence[Event]) -> Column:
    return pa.array([event.idempotency_key or "" for event in events], pa.string())


_OF_EVENT: dict[str, Callable[[Sequence[Event]], Column]] = {
    "namespace": _of_event("namespace", pa.string()),
    "interaction_id": _of_event("interaction_id", pa.string()),
    "occurred_at": _shown_occurred_ats,
    "timestamp": _of_event("append_ms", _MILLISECONDS),
    "_event_time_ms": _of_event("event_ms", pa.int64()),
    "_idempotency_key": _idempotency_keys,
    "_partition": _of_event("partition", pa.uint32()),
    "_offset": _of_event("offset", pa.uint64()),
}

_OF_WIRE: dict[str, Callable[[Sequence[WireEvent]], Column]] = {
    "feature_id": _of_wire("feature_id", pa.string()),
    "interaction_type": _types,
    "position": _of_wire("position", pa.uint32()),
    "metadata": _json_texts("metadata"),
    "user_id": _of_wire("user_id", pa.string()),
    "session_id": _of_wire("session_id", pa.string()),
    "execution_id": _of_wire("execution_id", pa.string()),
    "retriever_id": _of_wire("retriever_id", pa.string()),
    "query_snapshot": _json_texts("query_snapshot"),
    "document_score": _of_wire("document_score", pa.float64()),
    "result_set_size": _of_wire("result_set_size", pa.uint32()),
    "feature_uri": _of_wire("feature_uri", pa.string()),
}


def interaction_rows(topic: str, events: Sequence[Event]) -> pa.Table:
    """The rows of `interactions` for these events."""
    wires = [event.wire for event in events]
    return pa.table(
        {name: column(events) for name, column in _OF_EVENT.items()}
        | {name: column(wires) for name, column in _OF_WIRE.items()}
        | {"_topic": pa.repeat(topic, len(events))}
    )


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
