"""Requests and answers of the endpoints that show events with their outcomes."""

from datetime import datetime
from typing import Annotated, Literal, get_args

from fastapi import Path
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from readers.filter_fields import is_plain
from readers.reader import StatusName
from runtime.http.times import Time
from schemas.identity import PREFIX
from schemas.interaction import INTERACTION_TYPES, MAX_ID_BYTES
from schemas.record import InteractionRecord

InteractionId = Annotated[str, Path(description=f"{PREFIX} and 32 hex digits", examples=[f"{PREFIX}{'0' * 32}"])]
EventVerdict = Literal["stored", "duplicate", "rejected", "deleted", "moved"]
VERDICTS: tuple[EventVerdict, ...] = get_args(EventVerdict)
DEFAULT_VERDICTS: tuple[EventVerdict, ...] = ("stored", "duplicate", "rejected", "deleted")
"""All but moved: a moved event is listed by the outcome of its copy."""
DEFAULT_PAGE = 100
MAX_PAGE = 1_000
DEFAULT_RECENT = 200
MAX_RECENT = 500
MAX_QUERY_CHARACTERS = 1_000
"""Characters of a query's text that an event shows."""
MAX_CURSOR = 1_024
MAX_RECENT_CURSOR = 16 * 1024
"""Characters of a cursor of recent events, which has an offset for each partition."""
_MAX_SHOWN_VALUE = 100


def _checked_verdicts(text: str) -> str:
    """Check a comma-separated list of verdicts. Raises PydanticCustomError."""
    if unknown := [each for each in _split(text) if each not in VERDICTS]:
        raise PydanticCustomError(
            "unknown_verdict",
            "{shown} is no verdict; write some of {known}, separated by commas",
            {"shown": repr(unknown[0][:_MAX_SHOWN_VALUE]), "known": ", ".join(VERDICTS)},
        )
    return text


def _split(text: str) -> list[str]:
    return [each.strip() for each in text.split(",")]


def _plain(text: str) -> str:
    if not is_plain(text):
        raise PydanticCustomError("not_utf8", "contains a lone surrogate, which no stored text does")
    return text


def _known_type(text: str) -> str:
    if text not in INTERACTION_TYPES:
        raise PydanticCustomError("unknown_interaction_type", f"is none of {', '.join(INTERACTION_TYPES)}")
    return text


VerdictList = Annotated[str, Field(max_length=200), AfterValidator(_checked_verdicts)]
PlainText = Annotated[
    str | None, Field(min_length=1, max_length=MAX_ID_BYTES), AfterValidator(lambda v: v and _plain(v))
]
TypeName = Annotated[str | None, Field(max_length=100), AfterValidator(lambda v: v and _known_type(v))]


class EventConditions(BaseModel):
    """Conditions on events that every call has. All given ones must hold, by the values that an event shows."""

    model_config = ConfigDict(extra="forbid")

    verdict: VerdictList | None = Field(
        None,
        description=f"some of {', '.join(VERDICTS)}, separated by commas; default: all but moved",
        examples=["duplicate,rejected"],
    )
    interaction_type: TypeName = Field(None, examples=["click"])
    retriever_id: PlainText = None
    user_id: PlainText = None
    execution_id: PlainText = None

    @property
    def verdicts(self) -> tuple[EventVerdict, ...]:
        """Verdicts to find."""
        wanted = set(_split(self.verdict)) if self.verdict is not None else DEFAULT_VERDICTS
        return tuple(each for each in VERDICTS if each in wanted)


class EventQuery(EventConditions):
    """Page of events with their outcomes."""

    any_id: PlainText = Field(None, description="an interaction_id, execution_id, user_id or session_id")
    interaction_id: PlainText = None
    session_id: PlainText = None
    feature_id: PlainText = None
    since: Time | None = Field(None, description="earliest append time, inclusive, ISO 8601")
    until: Time | None = Field(None, description="append time before which events are listed, ISO 8601")
    limit: int = Field(DEFAULT_PAGE, ge=1, le=MAX_PAGE)
    cursor: str | None = Field(None, max_length=MAX_CURSOR, description="next_cursor of the page before")


class RecentQuery(EventConditions):
    """Events since a cursor of an earlier answer."""

    limit: int = Field(DEFAULT_RECENT, ge=1, le=MAX_RECENT, description="most events of the answer")
    cursor: str | None = Field(None, max_length=MAX_RECENT_CURSOR, description="cursor of the answer before")


class ShownEvent(BaseModel):
    """Event with its outcome; null where it is unknown. A deleted event shows its ids and place only."""

    interaction_id: str
    verdict: EventVerdict
    timestamp: datetime = Field(description="append time of the Kafka record")
    event_time: datetime | None
    topic: str
    partition: int
    offset: int
    interaction_type: list[str] | None
    feature_id: str | None
    position: int | None
    retriever_id: str | None
    query: str | None = Field(
        description=f"text of the query (TALLY_QUERY_TEXT_PATH), {MAX_QUERY_CHARACTERS} characters"
    )
    user_id: str | None
    session_id: str | None
    execution_id: str | None
    duplicate_of: str | None
    reason: str | None
    explanation: str | None = Field(description="the reason in words")
    field: str | None
    message: str | None
    replayed_as: str | None
    moved_to: str | None = Field(description="partition/offset of the copy of a moved event")


EVENT_FIELDS = tuple(ShownEvent.model_fields)


class EventPage(BaseModel):
    """Page of events, the newest first."""

    events: list[ShownEvent]
    next_cursor: str | None
    notes: list[str] = Field(description="what this search cannot find")


class CountsByVerdict(BaseModel):
    """Number of events by verdict."""

    stored: int = 0
    duplicate: int = 0
    rejected: int = 0
    deleted: int = 0
    moved: int = 0


class RecentEvents(BaseModel):
    """Events whose outcomes were recorded since the cursor, the newest last."""

    cursor: str
    events: list[ShownEvent]
    counts: CountsByVerdict = Field(description="all matching events since the cursor, also those that are not shown")
    shown: int
    sampled: bool = Field(description="whether matching events are not shown: the newest of each verdict are")
    skipped: int = Field(
        description="records that were not looked at, of all namespaces, because the cursor was too old"
    )
    in_flight: int = Field(description="records of the topic without an outcome yet, of all namespaces")
    lag_ms: int | None = Field(description="age of the oldest record without an outcome; null while unknown")


class BriefEvent(BaseModel):
    """Event in short form."""

    interaction_id: str
    verdict: EventVerdict
    timestamp: datetime
    partition: int
    offset: int
    reason: str | None
    interaction_type: list[str] | None
    feature_id: str | None
    user_id: str | None
    execution_id: str | None


class PartitionRecords(BaseModel):
    """Number of records of a partition without an outcome yet."""

    partition: int
    lag: int


class RecordsInFlight(BaseModel):
    """Records of the topic without an outcome yet: the event may be one of them."""

    records: int
    partition_lag: list[PartitionRecords] = Field(description="partitions that lag, the largest first, 100 at most")
    lag_ms: int | None = Field(description="age of the oldest record without an outcome; null while unknown")


class DeduplicationKey(BaseModel):
    """Rule by which repeats of the event are recognized, and the values that form the deduplication key."""

    rule: Literal["execution", "idempotency_key", "none"]
    key: str | None = Field(description="the deduplication key, 16 bytes as hex digits")
    execution_id: str | None
    feature_id: str | None
    interaction_type: list[str] | None
    idempotency_key: str | None
    window_ms: int = Field(description="TALLY_DEDUP_WINDOW_MS")


class EventDetails(BaseModel):
    """State, outcome and surroundings of one event."""

    interaction_id: str
    status: StatusName
    event: ShownEvent | None
    record: InteractionRecord | None = Field(description="the stored record; null unless the event is stored")
    explanation: str = Field(description="why the event has this status")
    next: str = Field(description="what happens next, or what can be done")
    owner: BriefEvent | None = Field(description="the stored event that a duplicate repeats")
    copy_of_replay: StatusName | None = Field(description="status of replayed_as")
    duplicates: list[BriefEvent] = Field(description="events that repeat this one, in order of their ids, 20 at most")
    duplicates_total: int
    in_flight: RecordsInFlight | None
    dead_letter: str | None = Field(description="partition/offset of the rejected record")
    deduplication: DeduplicationKey | None
