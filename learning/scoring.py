"""Scores and ship gate over HTTP: requests and responses.

Request and response of a score are those of the published client (`mixpeek`, POST /v1/evaluations/score); `intervals`,
`interval_method` and the metrics of order (map, ndcg, mrr) are additions.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from learning.estimators.gate import DEFAULT_TOLERANCE, GateMetric, GateResult, GateState, gate
from learning.estimators.means import mean_of
from learning.estimators.ranking import MAX_DEPTH, RankedQuery, RankingMetric, parse_metric, score_queries
from runtime.http.errors import ApiError, invalid, problem
from runtime.settings import Settings

MAX_GRADE = 5
DEFAULT_METRICS = ("precision", "recall", "f1", "f2")
"""Metrics of the published service."""
DIGITS = 12
"""Decimals of values in responses."""

MetricText = Annotated[str, Field(max_length=40, examples=["ndcg@10"])]
Documents = Annotated[list[str], Field(fail_fast=True)]
Grades = dict[str, Annotated[int, Field(ge=0, le=MAX_GRADE)]]


class JudgedQuery(BaseModel):
    """Relevant documents of a query. A document in `relevance_scores` has that grade, others in `ground_truth` 1."""

    model_config = ConfigDict(extra="forbid", strict=True)

    ground_truth: Documents | None = None
    relevance_scores: Grades | None = Field(None, description="relevance by document, 0 to 5, for ndcg")

    def grades(self) -> dict[str, int]:
        """Return the grades of the documents."""
        return grades_of(self.ground_truth or (), self.relevance_scores or {})


class ScoredItem(JudgedQuery):
    """Predicted documents of a query, best first, and the relevant ones. A repeated document counts once."""

    query_id: str | None = Field(
        None, max_length=512, description="accepted so that items can be those of a gate; not in the response"
    )
    predicted: Documents | None = None


class ScoreRequest(BaseModel):
    """Predictions to score: one pair (`predicted`, `ground_truth`), or `items`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    predicted: Documents | None = None
    ground_truth: Documents | None = None
    items: Annotated[list[ScoredItem], Field(fail_fast=True, min_length=1)] | None = None
    metrics: list[MetricText] | None = Field(
        None, min_length=1, max_length=50, description="precision, recall, f1, f2, map, ndcg, mrr, also as ndcg@10"
    )
    k: int | None = Field(None, ge=1, le=MAX_DEPTH, description="only the first k predicted documents count")

    @model_validator(mode="after")
    def _one_form(self) -> "ScoreRequest":
        pair = [self.predicted is not None, self.ground_truth is not None]
        if (self.items is not None) == any(pair) or (any(pair) and not all(pair)):
            raise ValueError("send predicted and ground_truth, or items")
        return self

    def queries(self) -> list[ScoredItem]:
        """Return the items in either form."""
        return self.items or [ScoredItem(predicted=self.predicted or [], ground_truth=self.ground_truth or [])]


class MeanInterval(BaseModel):
    """Ends of the 95 % interval of a mean over items; null with one item."""

    low: float | None
    high: float | None


class ScoreResponse(BaseModel):
    """Scores of each item, and their means."""

    metrics: list[str]
    k: int | None
    count: int
    per_item: list[dict[str, float]]
    aggregate: dict[str, float]
    intervals: dict[str, MeanInterval] = Field(description="95 % interval of each mean over items")
    interval_method: str = "student"
    items_without_relevant: int = Field(description="items that score 0, because no document is relevant")


class GateItem(JudgedQuery):
    """Rankings of one query by the baseline and by the candidate."""

    query_id: str = Field(max_length=512)
    baseline: Documents
    candidate: Documents


class GateRequest(BaseModel):
    """Candidate to compare with a baseline over the same queries."""

    model_config = ConfigDict(extra="forbid", strict=True)

    items: list[GateItem] = Field(min_length=1, fail_fast=True)
    primary: MetricText = "ndcg@10"
    guards: list[MetricText] = Field(default=[], max_length=50)
    tolerance: float = Field(DEFAULT_TOLERANCE, ge=0, le=1, description="accepted drop of a guard, in its units")


class GateComparison(BaseModel):
    """Comparison of one metric: means, and the paired difference with its 95 % interval."""

    baseline: float
    candidate: float
    delta: float
    low: float | None
    high: float | None
    state: GateState
    queries_needed: int | None = Field(description="queries that would decide an inconclusive metric; null: unknown")

    @classmethod
    def of(cls, metric: GateMetric) -> "GateComparison":
        """Describe a comparison."""
        difference = metric.difference
        return cls(
            baseline=round(metric.baseline, DIGITS),
            candidate=round(metric.candidate, DIGITS),
            delta=round(difference.mean, DIGITS),
            low=_rounded(difference.low),
            high=_rounded(difference.high),
            state=metric.state,
            queries_needed=metric.queries_needed,
        )


class GateResponse(BaseModel):
    """Verdict of the gate. Names are those of the published client's GateVerdict where the meaning is the same."""

    passed: bool
    reason: str
    primary_metric: str
    tolerance: float
    count: int = Field(description="queries compared")
    compared_metrics: int
    regressed_metrics: list[str]
    inconclusive_metrics: list[str]
    per_metric: dict[str, GateComparison]

    @classmethod
    def of(cls, found: GateResult) -> "GateResponse":
        """Describe a verdict."""
        return cls(
            passed=found.passed,
            reason=found.reason,
            primary_metric=found.primary,
            tolerance=found.tolerance,
            count=found.queries,
            compared_metrics=len(found.metrics),
            regressed_metrics=found.in_state("regressed"),
            inconclusive_metrics=found.in_state("inconclusive"),
            per_metric={name: GateComparison.of(metric) for name, metric in found.metrics.items()},
        )


def grades_of(relevant: Iterable[str], scores: Mapping[str, int]) -> dict[str, int]:
    """Return the grade of each document: its score, else 1."""
    return {**dict.fromkeys(relevant, 1), **scores}


def score(settings: Settings, request: ScoreRequest) -> ScoreResponse:
    """Score predictions. Raises ApiError 422 for an unknown metric, and for too many items or documents."""
    items = request.queries()
    named = _metrics(request.metrics or DEFAULT_METRICS, request.k)
    _check_size(settings, items, lambda item: len(item.predicted or ()))
    queries = [RankedQuery(item.predicted or (), item.grades()) for item in items]
    return scored(queries, named, request.k)


def scored(queries: Sequence[RankedQuery], named: Mapping[str, RankingMetric], k: int | None) -> ScoreResponse:
    """Return the scores of queries (at least one) by the names of the metrics."""
    values = score_queries(queries, list(named.values()))
    means = {name: mean_of(values[metric]) for name, metric in named.items()}
    return ScoreResponse(
        metrics=list(named),
        k=k,
        count=len(queries),
        per_item=[
            {name: round(values[metric][number], DIGITS) for name, metric in named.items()}
            for number in range(len(queries))
        ],
        aggregate={name: round(mean.mean, DIGITS) for name, mean in means.items()},
        intervals={
            name: MeanInterval(
                low=None if mean.low is None else _rounded(max(0.0, mean.low)),
                high=None if mean.high is None else _rounded(min(1.0, mean.high)),
            )
            for name, mean in means.items()
        },
        items_without_relevant=sum(not any(grade > 0 for grade in query.grades.values()) for query in queries),
    )


def judge(settings: Settings, request: GateRequest) -> GateResponse:
    """Compare a candidate with its baseline. Raises ApiError 422 as `score`, and for a repeated query."""
    named = _metrics([request.primary, *request.guards], None, "primary, guards")
    _check_size(settings, request.items, lambda item: len(item.baseline) + len(item.candidate))
    if len({item.query_id for item in request.items}) < len(request.items):
        raise invalid([problem("conflict", ["body", "items"], "two items have the same query_id")])
    grades = [item.grades() for item in request.items]
    return GateResponse.of(
        compared(
            [RankedQuery(item.baseline, each) for item, each in zip(request.items, grades, strict=True)],
            [RankedQuery(item.candidate, each) for item, each in zip(request.items, grades, strict=True)],
            named,
            request.tolerance,
        )
    )


def compared(
    baseline: Sequence[RankedQuery],
    candidate: Sequence[RankedQuery],
    named: Mapping[str, RankingMetric],
    tolerance: float,
) -> GateResult:
    """Apply the gate to two rankings of each query. The first metric is the primary one, the others are guards."""
    before, after = (score_queries(queries, list(named.values())) for queries in (baseline, candidate))
    primary, *guards = named
    return gate(
        {name: before[metric] for name, metric in named.items()},
        {name: after[metric] for name, metric in named.items()},
        primary,
        guards,
        tolerance,
    )


def _metrics(texts: Sequence[str], k: int | None, field: str = "metrics") -> dict[str, RankingMetric]:
    """Return the metrics by name. Spellings of one name, such as `ndcg@10` and `ndcg@010`, are one metric."""
    try:
        return {str(parse_metric(text)): parse_metric(text, k) for text in texts}
    except ValueError as error:
        raise invalid([problem("bad_metric", ["body", field], str(error))]) from None


def _check_size(settings: Settings, items: Sequence[Any], documents_of: Any) -> None:
    if len(items) > settings.evaluation_queries:
        raise _too_many(f"{len(items):,} items, at most {settings.evaluation_queries:,}", "TALLY_EVALUATION_QUERIES")
    documents = sum(documents_of(item) + len(item.grades()) for item in items)
    if documents > settings.evaluation_documents:
        raise _too_many(
            f"{documents:,} documents in all items, at most {settings.evaluation_documents:,}",
            "TALLY_EVALUATION_DOCUMENTS",
        )


def _too_many(message: str, setting: str) -> ApiError:
    return invalid([problem("too_many", ["body", "items"], f"{message} are allowed ({setting})")])


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, DIGITS)
