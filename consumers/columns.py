"""Columns: events and outcomes as Arrow tables in the form of `schemas/tables.py`."""

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from consumers.batch import Duplicates, Rejected
from consumers.events import Events, Flags
from runtime.owners import append_ms_of, event_ms_of, raw_ids_of
from schemas.identity import ID_LENGTH
from schemas.interaction import INTERACTION_TYPES
from schemas.scan_event import NUMBER_FIELDS, SPAN_FIELDS
from schemas.scan_texts import copy_spans, write_ids
from schemas.wide import WIDE
from schemas.wire import OBJECT_FIELDS

MAX_MESSAGE_CHARACTERS = 2_000

_MILLISECONDS = pa.timestamp("ms", tz="UTC")

_SPANS = {name: number for number, name in enumerate(SPAN_FIELDS)}
_NUMBERS = {name: number for number, name in enumerate(NUMBER_FIELDS)}

Column: TypeAlias = "pa.Array[Any]"


def interaction_rows(topic: str, events: Events) -> pa.Table:
    """The rows of `interactions` for these events."""
    texts = _texts(events, SPAN_FIELDS)
    occurred_ms = events.columns.numbers[:, _NUMBERS["occurred_at"]]
    result_set_size = events.columns.numbers[:, _NUMBERS["result_set_size"]]
    append_ms, event_ms = append_ms_of(events.rows), event_ms_of(events.rows)
    return pa.table(
        texts
        | {
            "namespace": _of_heads(events, [head.namespace for head in events.heads]),
            "interaction_id": _ids(events),
            "interaction_type": _types(events),
            "position": _numbers(events.columns.numbers[:, _NUMBERS["position"]].astype(np.uint32)),
            "document_score": pc.cast(texts["document_score"], pa.float64()),
            "result_set_size": _numbers(result_set_size.astype(np.uint32), result_set_size < 0),
            # A future event time is shown as the time of recording; deduplication keeps the real one.
            "occurred_at": _times(np.minimum(event_ms, append_ms), occurred_ms < 0),
            "timestamp": _times(append_ms),
            "_event_time_ms": _numbers(event_ms),
            "_idempotency_key": _of_heads(events, [head.idempotency_key or "" for head in events.heads]),
            "_topic": _the_same(topic, len(events)),
            "_partition": _numbers(events.partitions),
            "_offset": _numbers(events.offsets.astype(np.uint64)),
        }
    )


def _texts(events: Events, names: Iterable[str]) -> dict[str, Column]:
    """Texts without their escapes, null where there is none; objects as they were sent, empty where there is none."""
    fields = np.array([_SPANS[name] for name in names])
    spans = events.columns.spans
    written = spans[:, fields, 2]
    sizes = np.maximum(written, 0).sum(axis=0)
    behind = np.cumsum(sizes + WIDE)  # copying runs over the end of what is copied
    firsts = np.concatenate([[0], behind[:-1]])
    ends = np.zeros((len(fields), len(spans) + 1), np.int64)
    into = np.empty(int(behind[-1]), np.uint8)
    copy_spans(events.text, spans, fields, firsts, firsts.copy(), ends, into)
    columns: dict[str, Column] = {}
    for i, name in enumerate(names):
        text = _buffer(into[firsts[i] : firsts[i] + sizes[i]])
        if name in OBJECT_FIELDS:
            columns[name] = pa.Array.from_buffers(pa.large_binary(), len(spans), [None, _buffer(ends[i]), text])
            continue
        buffers = [_validity(written[:, i] < 0), _buffer(ends[i].astype(np.int32)), text]
        columns[name] = pa.Array.from_buffers(pa.string(), len(spans), buffers)
    return columns


def _ids(events: Events) -> Column:
    text = np.empty(len(events) * ID_LENGTH, np.uint8)
    write_ids(raw_ids_of(events.rows), text)
    ends = np.arange(len(events) + 1, dtype=np.int32) * np.int32(ID_LENGTH)
    return pa.Array.from_buffers(pa.string(), len(events), [None, _buffer(ends), _buffer(text)])


def _types(events: Events) -> Column:
    types = _numbered(events.columns.types[: events.columns.type_ends[-1]], INTERACTION_TYPES)
    lists: Column = pa.ListArray.from_arrays(_numbers(events.columns.type_ends), types)
    return lists


def _of_heads(events: Events, texts: Sequence[str]) -> Column:
    column: Column = _numbered(events.head_of, texts).cast(pa.string())  # texts may come twice: no dictionary
    return column


def _the_same(text: str, count: int) -> Column:
    return _numbered(np.zeros(count, np.int32), [text])


def _numbered(numbers: npt.NDArray[np.integer[Any]], texts: Sequence[str]) -> Column:
    """For each number the text at that place."""
    return pa.DictionaryArray.from_arrays(_numbers(numbers), _strings(texts))


def _strings(texts: Sequence[str]) -> Column:
    raw = [text.encode(errors="replace") for text in texts]
    ends = np.cumsum([0, *map(len, raw)]).astype(np.int32)
    return pa.Array.from_buffers(pa.string(), len(raw), [None, _buffer(ends), pa.py_buffer(b"".join(raw))])


def _numbers(numbers: npt.NDArray[np.integer[Any]], absent: Flags | None = None, kind: Any = None) -> Any:
    """Arrays are made of buffers: `pa.array` imports pandas, where that is installed, which takes half a second."""
    buffers = [_validity(absent), _buffer(np.ascontiguousarray(numbers))]
    return pa.Array.from_buffers(kind or pa.from_numpy_dtype(numbers.dtype), len(numbers), buffers)


def _validity(absent: Flags | None) -> pa.Buffer | None:
    return _buffer(np.packbits(~absent, bitorder="little")) if absent is not None and absent.any() else None


def _buffer(array: Any) -> pa.Buffer:
    return pa.py_buffer(array)


def _times(epoch_ms: npt.NDArray[np.int64], absent: Flags | None = None) -> Column:
    times: Column = _numbers(epoch_ms, absent, _MILLISECONDS)
    return times


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
_OUTCOMES = pa.schema(_OUTCOME_COLUMNS)


def duplicate_rows(topic: str, duplicates: Duplicates) -> pa.Table:
    """The rows of `outcomes` for duplicates."""
    events = duplicates.events
    columns = _texts(events, ("user_id", "execution_id")) | {
        "namespace": _of_heads(events, [head.namespace for head in events.heads]),
        "interaction_id": _ids(events),
        "_topic": _the_same(topic, len(events)),
        "_partition": _numbers(events.partitions),
        "_offset": _numbers(events.offsets.astype(np.uint64)),
        "verdict": _the_same("duplicate", len(events)),
        "duplicate_of": _strings(duplicates.owners),
        "reason": _strings(duplicates.reasons),
        "field": _the_same("", len(events)),
        "message": _the_same("", len(events)),
        "timestamp": _times(append_ms_of(events.rows)),
        "_event_time_ms": _numbers(event_ms_of(events.rows)),
    }
    return pa.table(columns).select(_OUTCOMES.names).cast(_OUTCOMES)


def rejected_rows(topic: str, rejected: Sequence[Rejected]) -> pa.Table:
    """The rows of `outcomes` for rejections."""
    records = [item.record for item in rejected]
    columns = {
        "namespace": _strings([item.namespace for item in rejected]),
        "interaction_id": _strings([item.interaction_id for item in rejected]),
        "_topic": _the_same(topic, len(rejected)),
        "_partition": _numbers(np.array([item.partition for item in rejected], np.uint32)),
        "_offset": _numbers(np.array([record.offset for record in records], np.uint64)),
        "verdict": _the_same("rejected", len(rejected)),
        "duplicate_of": _the_same("", len(rejected)),
        "reason": _strings([item.rejection.reason for item in rejected]),
        "field": _strings([item.rejection.field for item in rejected]),
        "message": _strings([item.rejection.message[:MAX_MESSAGE_CHARACTERS] for item in rejected]),
        "user_id": pa.nulls(len(rejected), pa.string()),
        "execution_id": pa.nulls(len(rejected), pa.string()),
        "timestamp": _times(np.array([record.timestamp for record in records], np.int64)),
        "_event_time_ms": _numbers(np.zeros(len(rejected), np.int64)),
    }
    return pa.table(columns).cast(_OUTCOMES)
