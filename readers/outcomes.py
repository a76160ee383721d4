"""Outcomes of events that were not stored: duplicates and rejections, newest first, with explanations."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field
from pydantic_core import PydanticCustomError

from runtime.clickhouse import BoundParameters, ClickHouse
from runtime.http.times import Time
from schemas.dedup import DuplicateReason
from schemas.event_time import iso_ms
from schemas.identity import ID_LENGTH, is_interaction_id
from schemas.rejection import Reason
from schemas.tables import DELETIONS, OUTCOMES

MAX_PAGE = 1_000

DUPLICATE_REASONS: dict[DuplicateReason, str] = {
    "same_key": "the same execution, feature and types (or idempotency key) were recorded within the window",
    "same_id": "an event with this id is already stored",
    "replayed": "replayed from dead letters, or moved from another partition: a repeat of an event stored at that time",
}
REJECTION_REASONS: dict[Reason, str] = {
    "empty": "the record has no bytes",
    "tombstone": "the record has no value",
    "not_utf8": "the record is not UTF-8",
    "not_json": "the record is not JSON",
    "too_deep": "the record is nested too deeply",
    "number_out_of_range": "a number is out of range",
    "not_an_object": "the record is not a JSON object",
    "unknown_field": "a key is not a field of an interaction",
    "missing_field": "a required field is missing",
    "wrong_type": "a field has the wrong type",
    "unknown_interaction_type": "an interaction type is unknown",
    "too_large": "a field is too large",
    "bad_time": "occurred_at is not a valid time",
    "bad_id": "interaction_id is not a valid id",
    "bad_header": "a header of Tally is invalid",
    "bad_record": "the record contradicts its Kafka record batch",
    "bad_batch": "the record's Kafka record batch cannot be read",
    "batch_too_large": "the record's Kafka record batch is too large uncompressed",
    "conflict": "fields contradict one another",
    "namespace_held": "the event is valid, but held because most records of its namespace were rejected",
    "not_moved": "the event is on the wrong partition for its key, and Kafka refused its copy on the right one",
    "refused_by_table": "ClickHouse refused the row",
    "internal_error": "processing the record failed unexpectedly",
}
MISPLACED = "the event was on the wrong partition for its key: its copy there, with the same id, counts"
_EXPLANATIONS = {str(reason): words for reason, words in (*DUPLICATE_REASONS.items(), *REJECTION_REASONS.items())}
_EXPLANATIONS["misplaced"] = MISPLACED


def explain(reason: str) -> str:
    """Return a reason of `outcomes` in words."""
    return _EXPLANATIONS.get(reason, reason)


class OutcomeRecord(BaseModel):
    """Outcome of an event that was not stored."""

    interaction_id: str
    verdict: str
    duplicate_of: str | None
    reason: str
    explanation: str
    field: str | None
    message: str | None
    replayed_as: str | None
    moved_to: str | None
    """Partition/offset of the copy of a moved event."""
    user_id: str | None
    execution_id: str | None
    timestamp: datetime


_COLUMNS = tuple(name for name in OutcomeRecord.model_fields if name != "explanation")
_MOVED_TO = "if(verdict = 'moved', concat(toString(_copy_partition), '/', toString(_copy_offset)), '') AS moved_to"
_SELECTED = ", ".join(_MOVED_TO if name == "moved_to" else name for name in _COLUMNS)


class OutcomePage(BaseModel):
    """Page of outcomes; `next_cursor` leads to the next page."""

    results: list[OutcomeRecord]
    next_cursor: str | None


def _cursor(text: str) -> str:
    if not is_interaction_id(text):
        raise PydanticCustomError("bad_cursor", "is not a cursor of this API")
    return text


BoundedText = Annotated[str | None, Field(max_length=512)]


class OutcomeQuery(BaseModel):
    """Conditions on outcomes; all given ones must hold. Times are append times."""

    verdict: Literal["duplicate", "rejected", "moved"] | None = Field(
        None, description="without it a moved event is listed by the outcome of its copy"
    )
    reason: BoundedText = None
    user_id: BoundedText = None
    execution_id: BoundedText = None
    since: Time | None = Field(None, description="earliest append time, inclusive, ISO 8601")
    until: Time | None = Field(None, description="append time before which outcomes are listed, ISO 8601")
    limit: int = Field(100, ge=1, le=MAX_PAGE)
    cursor: Annotated[str, AfterValidator(_cursor)] | None = Field(None, max_length=ID_LENGTH)
    unattributed: bool = Field(False, description="records without a namespace; needs the scope admin")


async def read_outcomes(
    database: ClickHouse, timeout_ms: int, namespace: str, query: OutcomeQuery
) -> tuple[Sequence[dict[str, Any]], str | None]:
    """Return a page of outcomes, and the cursor of the next one. Raises Unavailable, StatementTimeout."""
    bind = BoundParameters()
    # Deleted events are not listed.
    gone = f"SELECT interaction_id FROM {DELETIONS} WHERE namespace = {bind.bind(namespace, 'String')}"
    conditions = [f"namespace = {bind.bind(namespace, 'String')}", f"interaction_id NOT IN ({gone})"]
    for test, value in (
        ("verdict = " if query.verdict else "verdict != ", query.verdict or "moved"),
        ("reason = ", query.reason),
        ("user_id = ", query.user_id),
        ("execution_id = ", query.execution_id),
        ("timestamp >= ", query.since),
        ("timestamp < ", query.until),
        ("interaction_id < ", query.cursor),
    ):
        if value is not None:
            conditions.append(test + bind.bind(value, "String"))
    sql = (
        f"SELECT {_SELECTED} FROM {OUTCOMES} WHERE {' AND '.join(conditions)} "
        "ORDER BY interaction_id DESC, replayed_as = interaction_id, _offset, replayed_as DESC "
        f"LIMIT 1 BY interaction_id LIMIT {query.limit + 1:d}"
    )
    rows = await database.rows(sql, bind.values, limits={"max_execution_time": timeout_ms / 1000})
    found = [_record(dict(zip(_COLUMNS, row, strict=True))) for row in rows[: query.limit]]
    return found, found[-1]["interaction_id"] if len(rows) > query.limit else None


def _record(row: dict[str, Any]) -> dict[str, Any]:
    for name in ("duplicate_of", "field", "message", "replayed_as", "moved_to"):
        row[name] = row[name] or None
    return row | {"explanation": explain(row["reason"]), "timestamp": iso_ms(row["timestamp"])}
