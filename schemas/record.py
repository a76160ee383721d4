"""The stored record, as the API answers it: 17 fields, whatever became of the event."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from msgspec import Raw, structs
from pydantic import BaseModel, ConfigDict

from schemas.event_time import from_epoch_ms, iso_ms
from schemas.interaction import InteractionType, warning_for
from schemas.wire import ValidEvent


class InteractionRecord(BaseModel):
    """An interaction and what Tally added to it. `interaction_id` is null on a duplicate."""

    model_config = ConfigDict(extra="forbid")

    feature_id: str
    interaction_type: list[InteractionType]
    position: int
    metadata: dict[str, Any] | None = None
    user_id: str | None = None
    session_id: str | None = None
    execution_id: str | None = None
    retriever_id: str | None = None
    query_snapshot: dict[str, Any] | None = None
    document_score: float | None = None
    result_set_size: int | None = None
    feature_uri: str | None = None
    occurred_at: datetime | None = None
    interaction_id: str | None = None
    deduplicated: bool = False
    timestamp: datetime | None = None
    warning: str | None = None


def record_from_row(row: Mapping[str, Any], *, deduplicated: bool = False) -> dict[str, Any]:
    """The record of a row of `interactions`, ready to be encoded: its objects stay the JSON text they are.

    For a duplicate `row` is its owner's, which equals it in everything the rule compares.
    """
    record = {name: row[name] for name in InteractionRecord.model_fields if name in row}
    record["metadata"] = _object(row["metadata"])
    record["query_snapshot"] = _object(row["query_snapshot"])
    record["occurred_at"] = None if row["occurred_at"] is None else iso_ms(row["occurred_at"])
    record["timestamp"] = iso_ms(row["timestamp"])
    record["deduplicated"] = deduplicated
    record["interaction_id"] = None if deduplicated else row["interaction_id"]
    record["warning"] = warning_for(row["feature_uri"])
    return record


def record_from_event(
    validated: ValidEvent, interaction_id: str, append_ms: int, *, deduplicated: bool = False
) -> dict[str, Any]:
    """The record of an accepted event as it will be stored; `append_ms` is its time of recording, since 1970."""
    event, occurred_ms = validated
    record = structs.asdict(event)
    # A future event time is shown as the time of recording.
    record["occurred_at"] = None if occurred_ms is None else iso_ms(from_epoch_ms(min(occurred_ms, append_ms)))
    record["timestamp"] = iso_ms(from_epoch_ms(append_ms))
    record["deduplicated"] = deduplicated
    record["interaction_id"] = None if deduplicated else interaction_id
    record["warning"] = warning_for(event.feature_uri)
    return record


def _object(text: str) -> Raw | None:
    return Raw(text.encode()) if text else None
