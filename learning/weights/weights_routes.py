"""Endpoint of weights: a hot route, because a search waits for it."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from learning.context import LearningContext
from learning.scope import MAX_TEXT_BYTES
from learning.scope_query import RetrieverId
from learning.weights.counts import SEGMENT_SEPARATOR, Level
from learning.weights.decisions import (
    MAX_FEATURES,
    NoFeatures,
    StaticReason,
    WeightRequest,
    parse_features,
    without_counts,
)
from runtime.http import openapi
from runtime.http.answer import Answer, json_answer
from runtime.http.errors import ApiError, unavailable
from runtime.http.hot_routes import HotRequest, Parameter, declared_only, read_query, served_by
from runtime.http.in_flight import InFlightLimit
from schemas.interaction import MAX_ID_BYTES

PATH = "/v1/retrievers/{retriever_id}/weights"


def _checked_features(text: str) -> str:
    parse_features(text)
    return text


class WeightsQuery(BaseModel):
    """User, session and execution for which weights are requested. All are optional."""

    model_config = ConfigDict(extra="forbid")

    user_id: str = Field("", max_length=MAX_ID_BYTES)
    session_id: str = Field("", max_length=MAX_ID_BYTES, description="its events of the last minutes count, too")
    segment: str = Field(
        "", max_length=MAX_TEXT_BYTES, description=f"texts at demographic_features, joined by {SEGMENT_SEPARATOR}"
    )
    feature_uris: Annotated[str, AfterValidator(_checked_features)] = Field(
        "",
        description="features to weigh, separated by commas; default: those with results in the window, at most "
        f"{MAX_FEATURES}, which have the most data",
    )
    execution_id: str = Field("", max_length=MAX_ID_BYTES, description="recorded with the decision")
    mean: bool = Field(False, description="serve the mean of each weight instead of a draw: no exploration")


class FusionContext(BaseModel):
    """Decision to send as `metadata.learned_fusion_context` with every event of the execution."""

    context_key: str = Field(description="personal:DIGEST, segment:TEXTS, global or static", examples=["global"])
    sampled_weights: dict[str, float] = Field(description="draws, whose clipped shares are the weights")
    feature_uris: list[str]
    effective_exploration: float = Field(description="0: means instead of draws")
    context_level: Literal[Level, "static"]
    config_version: int = Field(description="version of the learning configuration; 0 without one")
    posterior: dict[str, tuple[float, float]] = Field(description="alpha and beta of each draw, before exploration")
    interactions: int = Field(description="rewarded interactions of the context in the window")
    session: bool = Field(description="whether events of the session changed the posterior")
    shadow: bool = Field(description="the draws were not served: the weights are equal")
    reason: Literal[StaticReason, ""] = Field(description="why static weights are served")
    signal_id: str = Field(description="of the recorded decision (`tally learn weights explain`); empty: not recorded")


class WeightsResponse(BaseModel):
    """Weights of features for one search."""

    weights: dict[str, float] = Field(description="by feature_uri; their sum is 1")
    learned_fusion_context: FusionContext


def add_weights_routes(router: APIRouter, context: LearningContext) -> None:
    """Add the endpoint of weights."""
    retriever = Parameter("path", "retriever_id", RetrieverId)
    limit = InFlightLimit(context.settings.weights_in_flight, "requests for weights", "TALLY_WEIGHTS_IN_FLIGHT")

    async def serve(request: HotRequest) -> Answer:
        caller = await context.admit(request.scope, "read")
        retriever_id, query = read_query(request, retriever, WeightsQuery)
        asked = WeightRequest(
            caller.namespace,
            retriever_id,
            query.user_id,
            query.session_id,
            query.segment,
            parse_features(query.feature_uris),
            query.execution_id,
            query.mean,
        )
        with limit.slot():
            try:
                decision = await context.weights.decide(asked)
            except NoFeatures as error:
                raise _without_features(retriever_id, error.reason, context.settings.aggregates_every_ms) from None
        return json_answer({"weights": decision.weights, "learned_fusion_context": decision.context})

    @router.get(PATH, responses=openapi.error_responses(404, ok=WeightsResponse))
    @served_by(serve)
    async def weights(retriever_id: RetrieverId, query: Annotated[WeightsQuery, Query()]) -> Response:
        """Return the weights of a retriever's features for one search, as learned from its events.

        Equal weights are served without a learning configuration, without data, and where the stores are too slow.
        """
        declared_only(retriever_id, query)


def _without_features(retriever: str, reason: StaticReason, every_ms: int) -> ApiError:
    name = f"retriever {retriever[:60]!r}"
    match reason:
        case "no_config":
            return ApiError(404, f"{name} has no learning configuration: name feature_uris for equal weights")
        case "no_data" | "rollout":
            return ApiError(404, without_counts(retriever, every_ms, "feature_uris"))
    return unavailable(f"the features of {name} are not known while the stores do not answer: name feature_uris")
