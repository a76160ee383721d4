"""Models of the answer to a dry run."""

from typing import Any, Literal

from pydantic import BaseModel, Field

WarningCode = Literal[
    "no_feature_uri",
    "no_execution_id",
    "no_retriever_id",
    "no_query_text",
    "position_outside_results",
    "future_event_time",
]


class EventWarning(BaseModel):
    """Warning about a valid event, which may not act as its sender intends."""

    code: WarningCode
    message: str


class DeduplicationPlan(BaseModel):
    """Rule by which repeats of an event are recognized, with the values that form the deduplication key."""

    rule: Literal["execution", "idempotency_key", "none"] = Field(
        description="none: the event is never a duplicate of another"
    )
    key: str | None = Field(None, description="Deduplication key: 16 bytes as hex digits")
    execution_id: str | None = None
    feature_id: str | None = None
    interaction_type: list[str] | None = None
    idempotency_key: str | None = None


class DerivedValues(BaseModel):
    """Values that Tally derives from a valid event."""

    namespace: str
    event_time: str | None = Field(description="As the record would show it; null: the time of acceptance")
    event_time_clamped: bool = Field(description="occurred_at is in the future and is shown as the time of acceptance")
    backfill: bool = Field(description="The event has occurred_at, so it gets no hint about duplicates")
    deduplication: DeduplicationPlan
    partition: int = Field(description="Partition of the topic that the event would be written to")


class ItemValidation(BaseModel):
    """Verdict about one event: its errors, or its derived values and warnings."""

    index: int
    valid: bool
    message: str | None = Field(None, description="Error message of create; null for a valid event")
    validation_errors: list[dict[str, Any]] = Field([], description="Errors of create, at most 20; empty if valid")
    derived: DerivedValues | None = None
    warnings: list[EventWarning] = []


class DryRunReport(BaseModel):
    """Verdicts about all events of a body. Nothing was sent to Kafka or stored."""

    valid: int
    invalid: int
    results: list[ItemValidation]
