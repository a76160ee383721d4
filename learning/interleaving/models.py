"""Requests and responses of interleaving."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from learning.estimators.interleaving import Credit, ShareEstimate, Team
from learning.interleaving.drafts import DraftRequest, RankingSpec
from learning.interleaving.events import ExperimentScope
from learning.interleaving.results import DraftFilter, ExperimentVerdict
from learning.interleaving.tokens import MAX_NAME_BYTES
from learning.scope import ScopeError
from runtime.event_range import CLOCK_AHEAD
from runtime.http.errors import invalid, problem
from runtime.http.times import Time
from schemas.event_time import EPOCH
from schemas.interaction import MAX_ID_BYTES, InteractionType

DEFAULT_DAYS = 30
MAX_DOCUMENTS = 1_000
"""Maximum documents of a ranking, and of a draft."""
MAX_LIMIT = 1_000


def _sized(most: int) -> AfterValidator:
    def check(text: str) -> str:
        if (size := len(text.encode())) > most:
            raise ValueError(f"has {size} bytes, at most {most} are allowed")
        return text

    return AfterValidator(check)


def _fits_a_path(name: str) -> str:
    if not name.isprintable() or name != name.strip() or name in (".", "..") or "/" in name:
        raise ValueError("has printable characters without slashes, and no spaces around them")
    return name


def _distinct(documents: list[str]) -> list[str]:
    seen = set[str]()
    for document in documents:
        if document in seen:
            raise ValueError(f"document {document[:60]!r} is repeated")
        seen.add(document)
    return documents


def _as_ranking(value: object) -> object:
    return {"documents": value} if isinstance(value, list) else value


Name = Annotated[str, Field(min_length=1), _sized(MAX_NAME_BYTES)]
ExperimentName = Annotated[Name, AfterValidator(_fits_a_path)]
DocumentId = Annotated[str, Field(min_length=1), _sized(MAX_ID_BYTES)]


class Ranking(BaseModel):
    """Ranking to interleave. A list of documents alone is accepted, too; its name is then that of its team."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Name | None = Field(None, description="name of the ranker with its version, such as bm25-v3")
    documents: Annotated[list[DocumentId], Field(max_length=MAX_DOCUMENTS), AfterValidator(_distinct)] = Field(
        description="feature_id of each result, best first, without repeats"
    )

    def spec(self, team: Team) -> RankingSpec:
        """Return the ranking of a team."""
        return RankingSpec(self.name or team, self.documents)


RankingBody = Annotated[Ranking, BeforeValidator(_as_ranking)]


class InterleavingRequest(BaseModel):
    """Two rankings of the same execution."""

    model_config = ConfigDict(extra="forbid", strict=True)

    experiment: ExperimentName
    a: RankingBody
    b: RankingBody
    k: int = Field(10, ge=1, le=MAX_DOCUMENTS, description="number of results to show")
    execution_id: DocumentId | None = Field(
        None, description="repeated requests for an execution get the same draft; a larger k extends it"
    )

    def draft_request(self) -> DraftRequest:
        """Return the request of a draft."""
        return DraftRequest(self.experiment, self.a.spec("a"), self.b.spec("b"), self.k, self.execution_id)


class InterleavedResult(BaseModel):
    """Result to show at a position."""

    feature_id: str
    position: int
    team: Credit
    token: str = Field(description="for metadata.interleaving of the events of this result")


class InterleavingResponse(BaseModel):
    """Interleaved ranking."""

    interleaving_id: str
    experiment: str
    first: Team = Field(description="team that picked first")
    results: list[InterleavedResult]


class ExperimentQuery(BaseModel):
    """Range of event time, by default the last 30 days."""

    model_config = ConfigDict(extra="forbid")

    since: Time | None = Field(None, description="earliest event time, inclusive, ISO 8601")
    until: Time | None = Field(None, description="event time before which events are read, ISO 8601")
    interaction_type: InteractionType = Field("click", description="type of the events that decide a draft")

    def scope(self, namespace: str, experiment: str) -> ExperimentScope:
        """Return the scope of a request. Raises ApiError 422."""
        until = self.until or datetime.now(UTC)
        since = self.since or until - timedelta(days=DEFAULT_DAYS)
        try:
            return ExperimentScope(namespace, experiment, since, until, self.interaction_type).checked()
        except ScopeError as error:
            where = "path" if error.parameter == "experiment" else "query"
            raise invalid([problem("bad_scope", [where, error.parameter], str(error))]) from None


class ExperimentListQuery(BaseModel):
    """Range of event time, by default the last 30 days."""

    model_config = ConfigDict(extra="forbid")

    since: Time | None = Field(None, description="earliest event time, inclusive, ISO 8601")
    until: Time | None = Field(None, description="event time before which events are read, ISO 8601")

    def range(self) -> tuple[datetime, datetime]:
        """Return the ends of the range. Raises ApiError 422."""
        until = self.until or datetime.now(UTC) + CLOCK_AHEAD
        since = self.since or max(until - timedelta(days=DEFAULT_DAYS), EPOCH)
        if since >= until:
            raise invalid([problem("bad_scope", ["query", "until"], "is not later than since")])
        return since, until


class ExperimentSummary(BaseModel):
    """Experiment with the number of its drafts that have events in the range, and the times of these events."""

    experiment: str
    drafts: int
    first: datetime
    last: datetime


class ExperimentList(BaseModel):
    """Experiments, the one with the newest event first, 100 at most."""

    experiments: list[ExperimentSummary]


class DraftQuery(ExperimentQuery):
    """Page of drafts."""

    team: Literal["a", "b", "tie"] | None = Field(None, description="drafts with this outcome alone")
    limit: int = Field(100, ge=1, le=MAX_LIMIT)
    cursor: str = Field("", max_length=64, description="next_cursor of the page before")

    def filter(self) -> DraftFilter:
        """Return the filter of a page."""
        return DraftFilter(self.team, self.limit, self.cursor)


class RankingNames(BaseModel):
    """Names of the rankings of a pair."""

    a: str
    b: str


class TokenCounts(BaseModel):
    """Events with a token of the experiment."""

    events: int
    invalid: int = Field(description="events whose token does not verify; they are not counted")
    invalid_share: float | None
    reasons: dict[str, int]


class ExperimentResponse(BaseModel):
    """Result of an experiment. Its intervals and p-values are valid at every look."""

    experiment: str
    namespace: str
    since: datetime
    until: datetime
    interaction_type: str
    rankings: list[RankingNames]
    drafts: int = Field(description="drafts with at least one event")
    wins_a: int
    wins_b: int
    ties: int = Field(description="drafts without a click on a result of one team alone")
    ties_with_shared_clicks: int
    preference_for_b: ShareEstimate = Field(description="share of b in the wins")
    sample_ratio: ShareEstimate = Field(description="share of drafts in which b picked first; 1/2 is expected")
    verdict: ExperimentVerdict
    problems: Sequence[str] = Field(description="reasons of a refused verdict")
    tokens: TokenCounts
    notes: Sequence[str]


class DraftClickResponse(BaseModel):
    """Click on a result of a draft."""

    interaction_id: str
    execution_id: str
    feature_id: str
    position: int
    team: Credit
    timestamp: datetime


class DraftResponse(BaseModel):
    """Draft that was shown."""

    interleaving_id: str
    execution_id: str
    made_at: datetime
    first: Team
    outcome: Literal["a", "b", "tie"]
    decided_by: DraftClickResponse | None
    other_clicks: list[DraftClickResponse]
    clicks: int


class DraftsResponse(BaseModel):
    """Page of drafts in the order of their ids."""

    drafts: list[DraftResponse]
    next_cursor: str | None
