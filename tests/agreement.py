"""The scanner against the validator, to the row that would be stored."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from consumers.columns import interaction_rows
from consumers.events import Events
from schemas.dedup import dedup_key
from schemas.event_time import from_epoch_ms
from schemas.identity import derive_foreign_id
from schemas.interaction import OBJECT_FIELDS
from schemas.rejection import Rejection
from schemas.validator import validate
from schemas.wire import FIELD_NAMES, NULL, ValidEvent
from tests.native import rows_of
from tests.validating import APPEND_MS, NAMESPACE, validated


def assert_agreement(values: Sequence[bytes | None]) -> None:
    """Assert that these values are stored and rejected as the validator decides for each alone."""
    found = validated(values)
    verdicts = {at: validate(value) for at, value in enumerate(values)}
    assert {each.offset: each.rejection for each in found.rejected} == {
        at: verdict for at, verdict in verdicts.items() if isinstance(verdict, Rejection)
    }
    assert found_in(found.events) == {
        at: expected(at, verdict) for at, verdict in verdicts.items() if isinstance(verdict, ValidEvent)
    }


def base(**fields: str) -> bytes:
    """An event of which some fields have the JSON text that is given."""
    plain = {"feature_id": '"x"', "interaction_type": '["click"]', "position": "1"} | fields
    return ("{" + ",".join(f'"{name}":{text}' for name, text in plain.items()) + "}").encode()


def shown(value: object) -> str:
    """Tells -0.0 from 0.0 and 1 from 1.0, and no two names of one time zone."""
    return repr(value.astimezone(UTC) if isinstance(value, datetime) else value)


def found_in(events: Events) -> dict[int, dict[str, Any]]:
    """By offset, all that would be stored, and the key."""
    rows: dict[int, dict[str, Any]] = {}
    for event, row in zip(events, rows_of(interaction_rows("t", events)), strict=True):
        rows[event.offset] = {name: shown(value) for name, value in row.items()} | {"key": shown(event.key)}
        assert (event.feature_id, event.user_id, event.session_id, event.execution_id) == tuple(
            row[name] for name in ("feature_id", "user_id", "session_id", "execution_id")
        )
    return rows


def expected(offset: int, verdict: ValidEvent) -> dict[str, str]:
    """The same, from the validator."""
    event, occurred_ms = verdict
    row = {name: getattr(event, name) for name in FIELD_NAMES}
    for name in OBJECT_FIELDS:
        row[name] = "" if row[name] is NULL else bytes(row[name]).decode()
    event_ms = APPEND_MS if occurred_ms is None else occurred_ms
    row |= {
        "namespace": NAMESPACE,
        "interaction_id": event.interaction_id or derive_foreign_id("t", 3, offset, APPEND_MS),
        "occurred_at": None if occurred_ms is None else from_epoch_ms(min(occurred_ms, APPEND_MS)),
        "timestamp": from_epoch_ms(APPEND_MS),
        "_event_time_ms": event_ms,
        "_idempotency_key": "",
        "_keyed": int(bool(event.execution_id)),
        "version": 0,
        "is_deleted": 0,
        "_topic": "t",
        "_partition": 3,
        "_offset": offset,
        "key": dedup_key(NAMESPACE, event.execution_id, event.feature_id, event.interaction_type),
    }
    return {name: shown(value) for name, value in row.items()}
