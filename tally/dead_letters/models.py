"""Requests and answers of the API of dead letters."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from producers.collector.dry_run_models import EventWarning
from runtime.http.times import Time
from schemas.interaction import MAX_NAMESPACE_BYTES
from schemas.rejection import Reason
from tally.dead_letters.letter_outcomes import LetterFilter, LetterPosition, ReplayStatus

MAX_PAGE = 1_000
MAX_ORIGINS = 1_000
"""Maximum origins that one replay names."""
_MAX_CURSOR = 64


def _position(text: str) -> str:
    try:
        LetterPosition.parse(text)
    except ValueError as error:
        raise PydanticCustomError("bad_cursor", str(error)) from None
    return text


def _origin(text: str) -> str:
    partition, _, offset = text.partition("/")
    try:
        LetterPosition.parse(f"0/{partition}/{offset}")
    except ValueError:
        raise PydanticCustomError("bad_origin", "is not partition/offset, such as 3/1042") from None
    return text


LetterCursor = Annotated[str, Field(max_length=_MAX_CURSOR), AfterValidator(_position)]
OriginText = Annotated[str, Field(max_length=_MAX_CURSOR), AfterValidator(_origin)]
OwnNamespace = Annotated[str, Field(min_length=1, max_length=MAX_NAMESPACE_BYTES)]
Replayed = Literal["yes", "no"]


class _LetterConditions(BaseModel):
    """Conditions on dead letters; all given ones must hold."""

    model_config = ConfigDict(extra="forbid")

    reason: Reason | None = None
    field: str | None = Field(None, max_length=512, description="dotted name; empty: letters without a field")
    since: Time | None = Field(None, description="earliest append time of the rejected record, inclusive, ISO 8601")
    until: Time | None = Field(None, description="append time before which the record was appended, ISO 8601")
    unattributed: bool = Field(False, description="records without a namespace; needs the scope admin")


class LetterGroupsQuery(_LetterConditions):
    """Conditions on counted dead letters."""

    replayed: Replayed | None = None

    def conditions(self) -> LetterFilter:
        """Return the conditions on outcomes."""
        return LetterFilter(self.reason, self.field, None, self.since, self.until, _is_yes(self.replayed))


class LetterListQuery(_LetterConditions):
    """Page of dead letters."""

    message: str | None = Field(None, max_length=1_000, description="the whole message")
    replayed: Replayed | None = None
    limit: int = Field(100, ge=1, le=MAX_PAGE)
    cursor: LetterCursor | None = None

    def conditions(self) -> LetterFilter:
        """Return the conditions on outcomes."""
        return LetterFilter(self.reason, self.field, self.message, self.since, self.until, _is_yes(self.replayed))


class LetterQuery(BaseModel):
    """Owner of a dead letter."""

    model_config = ConfigDict(extra="forbid")

    unattributed: bool = Field(False, description="a record without a namespace; needs the scope admin")


class LetterCheckRequest(BaseModel):
    """Patch to try on a dead letter."""

    model_config = ConfigDict(extra="forbid")

    patch: dict[str, Any] | None = Field(None, description="JSON merge patch (RFC 7396)", examples=[{"position": 0}])
    as_namespace: OwnNamespace | None = Field(None, description="one of the key's namespaces, instead of the letter's")


class LetterReplayRequest(_LetterConditions):
    """Dead letters to put on the topic again, the oldest first. Those that are replayed already are left alone."""

    message: str | None = Field(None, max_length=1_000, description="the whole message")
    origins: list[OriginText] | None = Field(
        None, min_length=1, max_length=MAX_ORIGINS, description="only these, as partition/offset", examples=[["3/1042"]]
    )
    patch: dict[str, Any] | None = Field(None, description="JSON merge patch (RFC 7396)", examples=[{"position": 0}])
    as_namespace: OwnNamespace | None = Field(
        None, description="one of the key's namespaces, instead of the letters'; required with unattributed"
    )
    dry_run: bool = Field(True, description="validate only: nothing is put on the topic")
    cursor: LetterCursor | None = Field(None, description="next_cursor of the answer before")

    def conditions(self) -> LetterFilter:
        """Return the conditions on outcomes."""
        origins = [tuple(map(int, each.split("/"))) for each in self.origins or ()]
        pairs = [(partition, offset) for partition, offset in origins]
        return LetterFilter(self.reason, self.field, self.message, self.since, self.until, origins=pairs)


class LetterExample(BaseModel):
    """Newest letter of a group, one that waits if there is one."""

    partition: int
    offset: int
    message: str


class LetterGroup(BaseModel):
    """Dead letters of one reason and field."""

    reason: str
    explanation: str
    field: str | None
    letters: int
    replayed: int
    waiting: int = Field(description="letters that are not replayed")
    first: datetime
    last: datetime
    example: LetterExample


class LetterGroups(BaseModel):
    """Dead letters by reason and field, the most first, at most 200 groups."""

    groups: list[LetterGroup]
    total: int
    waiting: int


class LetterRecord(BaseModel):
    """Dead letter as its outcome describes it."""

    partition: int
    offset: int
    origin: str
    timestamp: datetime = Field(description="append time of the rejected record")
    interaction_id: str
    reason: str
    explanation: str
    field: str | None
    message: str | None
    replayed_as: str | None
    replay_status: ReplayStatus | None = Field(
        description="status of replayed_as; accepted: no outcome yet in the key's namespaces"
    )


class LetterPage(BaseModel):
    """Page of dead letters, newest first."""

    letters: list[LetterRecord]
    next_cursor: str | None


class LetterHeader(BaseModel):
    """Header of a rejected record; a part that is not UTF-8 is in base64."""

    name: str | None
    name_base64: str | None
    value: str | None
    value_base64: str | None
    truncated: bool


class LetterProblem(BaseModel):
    """Problem of a value, in the words of the validator."""

    type: str
    location: list[str | int]
    message: str


class LetterContent(LetterRecord):
    """Dead letter with the content of its record. `problems` are those of the value today; none: it is valid now."""

    namespace: str
    key: str | None
    key_base64: str | None
    key_truncated: bool
    value: str | None
    value_base64: str | None
    value_bytes: int | None
    value_truncated: bool
    headers: list[LetterHeader]
    headers_total: int
    problems: list[LetterProblem]
    problems_total: int


class LetterCheck(BaseModel):
    """Verdict about a letter with a patch. A valid event may still be a duplicate: only a worker decides that."""

    valid: bool
    problems: list[LetterProblem]
    problems_total: int
    patched: str | None = Field(description="JSON text that a replay would send; null: it is not UTF-8, or no value")
    patched_truncated: bool
    warnings: list[EventWarning]


class ReplayedLetter(BaseModel):
    """Letter that was put on the topic again, and its new id."""

    origin: str
    interaction_id: str


class LetterReplayReport(BaseModel):
    """Result of a replay, or of its dry run. `letters` is the sum of the numbers below it."""

    dry_run: bool
    letters: int
    would_pass: int | None = Field(description="of a dry run; else null")
    replayed: int | None = Field(description="put on the topic again; null for a dry run")
    still_rejected: int
    settled: int = Field(description="replayed before, or no longer rejected")
    missing: int = Field(description="letters that the dead-letter topic does not hold any more")
    why: dict[str, int] = Field(description="still rejected letters by `reason field`")
    more: bool = Field(description="letters are left: repeat the call with next_cursor as cursor")
    next_cursor: str | None
    replayed_as: list[ReplayedLetter] = Field(description="the first 100")


def _is_yes(given: Replayed | None) -> bool | None:
    return None if given is None else given == "yes"
