"""Columns: events and outcomes as blocks of ClickHouse's Native format, for the tables of `schemas/tables.py`."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from consumers.batch import Duplicates, Move, RejectedRecord
from consumers.claims.owners import append_ms_of, event_ms_of, raw_ids_of
from consumers.events import Events, LineFlags
from consumers.native_format import (
    TEXT,
    Block,
    Column,
    block,
    lists,
    nullable,
    numbers,
    same_text,
    texts,
    texts_by_number,
    times,
)
from kernels.boundary import NUMBER_AT, SPAN_AT, encode_ids, encode_texts, read_scores
from schemas.interaction import FIELDS, INTERACTION_TYPES, names_of
from schemas.tables import ERASED_COLUMNS

MAX_MESSAGE_CHARACTERS = 2_000

_TEXTS = names_of("text", "object")
_INTEGERS, _FLOATS = names_of("integer"), names_of("float")
_NULLABLE = {field.name for field in FIELDS if field.nullable}


def interaction_rows(topic: str, events: Events, deleted: LineFlags | None = None) -> Block:
    """Make the rows of `interactions` for events; tombstones for those that are deleted."""
    deleted = np.zeros(len(events), np.bool_) if deleted is None else deleted
    if deleted.any():
        events = _erased(events, deleted)
    append_ms, event_ms = append_ms_of(events.rows), event_ms_of(events.rows)
    occurred_ms = events.columns.numbers[:, NUMBER_AT["occurred_at"]]
    columns = _texts(events, _TEXTS) | _integers(events) | _floats(events)
    columns |= {
        "namespace": _by_headers(events, [each.namespace for each in events.headers]),
        "interaction_id": _ids(events),
        "interaction_type": _types(events),
        # A future event time is shown as the time of recording; deduplication keeps the real one.
        "occurred_at": nullable(times(np.minimum(event_ms, append_ms)), occurred_ms < 0),
        "timestamp": times(append_ms),
        "_event_time_ms": numbers(event_ms),
        "_idempotency_key": _by_headers(events, [each.idempotency_key or "" for each in events.headers]),
        "_keyed": numbers(events.keyed.astype(np.uint8)),
        "version": numbers(deleted.astype(np.uint64)),
        "is_deleted": numbers(deleted.astype(np.uint8)),
        "_topic": same_text(topic, len(events)),
        "_partition": numbers(events.partitions),
        "_offset": numbers(events.offsets.astype(np.uint64)),
    }
    return block(columns, len(events))


def _erased(events: Events, deleted: LineFlags) -> Events:
    """Erase the fields of deleted events that a tombstone does not keep."""
    spans, found = events.columns.spans.copy(), events.columns.numbers.copy()
    for name in ERASED_COLUMNS:
        if name in SPAN_AT:
            spans[deleted, SPAN_AT[name]] = (0, 0, -1)
        elif name in NUMBER_AT:
            found[deleted, NUMBER_AT[name]] = -1 if name in _NULLABLE else 0
    return replace(events, columns=events.columns._replace(spans=spans, numbers=found))


def _field(name: str, column: Column, absent: LineFlags) -> Column:
    return nullable(column, absent) if name in _NULLABLE else column


def _texts(events: Events, names: Sequence[str]) -> dict[str, Column]:
    """Make text columns: texts without their escapes or null, objects as they were sent or empty."""
    found = encode_texts(events.text, events.columns.spans, [SPAN_AT[name] for name in names])
    columns = zip(names, found, strict=True)
    return {name: _field(name, Column(TEXT, [encoded]), absent) for name, (encoded, absent) in columns}


def _integers(events: Events) -> dict[str, Column]:
    columns = ((name, events.columns.numbers[:, NUMBER_AT[name]]) for name in _INTEGERS)
    return {name: _field(name, numbers(found.astype(np.uint32)), found < 0) for name, found in columns}


def _floats(events: Events) -> dict[str, Column]:
    columns = ((name, np.ascontiguousarray(events.columns.spans[:, SPAN_AT[name]])) for name in _FLOATS)
    return {name: _field(name, numbers(read_scores(events.text, spans)), spans[:, 2] < 0) for name, spans in columns}


def _ids(events: Events) -> Column:
    return Column(TEXT, [encode_ids(raw_ids_of(events.rows))])


def _types(events: Events) -> Column:
    ends = events.columns.type_ends
    return lists(ends[1:], texts_by_number(events.columns.types[: ends[-1]], INTERACTION_TYPES))


def _by_headers(events: Events, values: Sequence[str]) -> Column:
    return texts_by_number(events.headers_of, values)


def duplicate_rows(topic: str, duplicates: Duplicates) -> Block:
    """Make the rows of `outcomes` for duplicates."""
    events = duplicates.events
    return _outcomes(
        topic,
        len(events),
        _texts(events, ("user_id", "execution_id"))
        | {
            "namespace": _by_headers(events, [each.namespace for each in events.headers]),
            "interaction_id": _ids(events),
            "_partition": numbers(events.partitions),
            "_offset": numbers(events.offsets.astype(np.uint64)),
            "verdict": same_text("duplicate", len(events)),
            "duplicate_of": texts(duplicates.owners),
            "reason": texts(duplicates.reasons),
            "timestamp": times(append_ms_of(events.rows)),
            "_event_time_ms": numbers(event_ms_of(events.rows)),
        },
    )


def rejected_rows(topic: str, rejected: Sequence[RejectedRecord]) -> Block:
    """Make the rows of `outcomes` for rejections."""
    records, rejections = [item.record for item in rejected], [item.rejection for item in rejected]
    return _outcomes(
        topic,
        len(rejected),
        {
            "namespace": texts(item.namespace for item in rejected),
            "interaction_id": texts(item.interaction_id for item in rejected),
            "_partition": numbers(np.array([item.partition for item in rejected], np.uint32)),
            "_offset": numbers(np.array([record.offset for record in records], np.uint64)),
            "verdict": same_text("rejected", len(rejected)),
            "reason": texts(rejection.reason for rejection in rejections),
            "field": texts(rejection.field for rejection in rejections),
            "message": texts(rejection.message[:MAX_MESSAGE_CHARACTERS] for rejection in rejections),
            "user_id": _maybe([item.user_id for item in rejected]),
            "execution_id": _maybe([item.execution_id for item in rejected]),
            "timestamp": times(np.array([record.timestamp for record in records], np.int64)),
        },
    )


def moved_rows(topic: str, moves: Sequence[Move]) -> Block:
    """Make the rows of `outcomes` for misplaced events, whose copies are on the partitions of their keys."""
    return _outcomes(
        topic,
        len(moves),
        {
            "namespace": texts(move.headers.namespace for move in moves),
            "interaction_id": texts(move.interaction_id for move in moves),
            "_partition": numbers(np.array([move.partition for move in moves], np.uint32)),
            "_offset": numbers(np.array([move.offset for move in moves], np.uint64)),
            "verdict": same_text("moved", len(moves)),
            "reason": same_text("misplaced", len(moves)),
            "user_id": _maybe([move.user_id for move in moves]),
            "execution_id": _maybe([move.execution_id for move in moves]),
            "timestamp": times(np.array([move.record.timestamp for move in moves], np.int64)),
            "_copy_partition": numbers(np.array([move.home for move in moves], np.uint32)),
            "_copy_offset": numbers(np.array([move.copy_offset for move in moves], np.uint64)),
        },
    )


def _maybe(values: Sequence[str | None]) -> Column:
    nulls = np.array([value is None for value in values], np.bool_)
    return nullable(texts(value or "" for value in values), nulls)


_EMPTY_OUTCOME = ("duplicate_of", "reason", "field", "message")
_NULL_OUTCOME = ("user_id", "execution_id")


def _outcomes(topic: str, rows: int, given: dict[str, Column]) -> Block:
    """Make a block of `outcomes`, with defaults of columns not given: every block of an insert has the same columns."""
    nothing = same_text("", rows)
    columns = (
        {
            "_topic": same_text(topic, rows),
            "_event_time_ms": numbers(np.zeros(rows, np.int64)),
            "_copy_partition": numbers(np.zeros(rows, np.uint32)),
            "_copy_offset": numbers(np.zeros(rows, np.uint64)),
        }
        | dict.fromkeys(_EMPTY_OUTCOME, nothing)
        | dict.fromkeys(_NULL_OUTCOME, nullable(nothing, np.ones(rows, np.bool_)))
    )
    return block(columns | given, rows)
