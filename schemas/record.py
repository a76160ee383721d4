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
from schemas.wire import FIELD_NAMES, NULL


class InteractionRecord(Interaction):
    """Record of an event: an interaction and four fields of Tally's own. `interaction_id` is null on a duplicate."""

    model_config = ConfigDict(strict=False)

    interaction_id: str | None = None
    deduplicated: bool = False
    timestamp: datetime | None = None
    warning: str | None = None


def record_from_row(row: Mapping[str, Any], *, deduplicated: bool = False) -> dict[str, Any]:
    """Make the record of a row of `interactions`, ready to be encoded: its objects stay JSON text.

    For a duplicate `row` is its owner's, which equals it in everything the rule compares.
    """
    record = {name: row[name] for name in FIELD_NAMES}
    record |= {name: Raw(row[name].encode()) if row[name] else None for name in OBJECT_FIELDS}
    occurred_at = None if row["occurred_at"] is None else iso_ms(row["occurred_at"])
    return _completed(record, row["interaction_id"], occurred_at, iso_ms(row["timestamp"]), deduplicated=deduplicated)


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
    record = _NO_FIELDS | fields
    if record["feature_uri"] == NULL:
        record["feature_uri"] = None
    return _completed(record, interaction_id, occurred_at, _iso_ms(append_ms), deduplicated=deduplicated)


_decode_fields = msgspec.json.Decoder(dict[str, Raw]).decode
_NO_FIELDS: dict[str, Any] = dict.fromkeys(FIELD_NAMES)


@lru_cache
def _iso_ms(epoch_ms: int) -> str:
    return iso_ms(from_epoch_ms(epoch_ms))


def _completed(
    record: dict[str, Any], interaction_id: str, occurred_at: str | None, timestamp: str, *, deduplicated: bool
) -> dict[str, Any]:
    return record | {
        "occurred_at": occurred_at,
        "interaction_id": None if deduplicated else interaction_id,
        "timestamp": timestamp,
        "deduplicated": deduplicated,
        "warning": warning_for(record["feature_uri"]),
    }
