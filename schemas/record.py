"""Record of an event, as the API answers it: an interaction and four fields of Tally's own."""

from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import Raw
from pydantic import ConfigDict

from schemas.event_time import from_epoch_ms, iso_ms
from schemas.interaction import OBJECT_FIELDS, Interaction, warning_for
from schemas.wire import NULL


class InteractionRecord(Interaction):
    """Record of an event: an interaction and four fields of Tally's own. `interaction_id` is null on a duplicate."""

    model_config = ConfigDict(strict=False)

    interaction_id: str | None = None
    deduplicated: bool = False
    timestamp: datetime | None = None
    warning: str | None = None


RECORD_FIELDS = tuple(InteractionRecord.model_fields)
_IN_ORDER: dict[str, Any] = dict.fromkeys(RECORD_FIELDS)


def record_from_row(row: Mapping[str, Any], *, deduplicated: bool = False) -> dict[str, Any]:
    """Make the record of a row of `interactions`, ready to be encoded: its objects stay JSON text.

    The row's times are texts as `iso_ms` writes them. For a duplicate `row` is its owner's, which equals it in
    everything the rule compares.
    """
    record = {**_IN_ORDER, **row}
    for name in OBJECT_FIELDS:
        text = row[name]
        record[name] = Raw(text.encode()) if text else None
    if deduplicated:
        record["interaction_id"] = None
    record["deduplicated"] = deduplicated
    record["warning"] = warning_for(row["feature_uri"])
    return record


def encode_record(row: Mapping[str, Any], *, deduplicated: bool = False) -> bytes:
    """Return the record of a row of `interactions` as JSON."""
    return msgspec.json.encode(record_from_row(row, deduplicated=deduplicated))


def record_from_text(
    text: bytes, interaction_id: str, append_ms: int, *, occurred_ms: int | None, deduplicated: bool = False
) -> dict[str, Any]:
    """Make the record of an accepted event, as it will be stored, from its valid JSON text without an id.

    `append_ms` is its append time, `occurred_ms` its event time, None for a live event, both in ms since 1970. Values
    stay JSON text.
    """
    fields = _decode_fields(text)
    if "document_id" in fields:
        named = fields.pop("document_id")
        fields = {"feature_id": named} | fields if named != NULL else fields
    # An event time in the future is shown as the append time.
    occurred_at = None if occurred_ms is None else _iso_ms(min(occurred_ms, append_ms))
    record = _IN_ORDER | fields
    if record["feature_uri"] == NULL:
        record["feature_uri"] = None
    return record | {
        "occurred_at": occurred_at,
        "interaction_id": None if deduplicated else interaction_id,
        "timestamp": _iso_ms(append_ms),
        "deduplicated": deduplicated,
        "warning": warning_for(record["feature_uri"]),
    }


_decode_fields = msgspec.json.Decoder(dict[str, Raw]).decode


@lru_cache
def _iso_ms(epoch_ms: int) -> str:
    return iso_ms(from_epoch_ms(epoch_ms))
