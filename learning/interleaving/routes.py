"""Endpoints of interleaving: drafts, the result of an experiment, and its drafts one by one."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from learning.context import LearningContext
from learning.interleaving.drafts import make_draft
from learning.interleaving.experiments import list_experiments
from learning.interleaving.models import (
    DraftQuery,
    DraftsResponse,
    ExperimentList,
    ExperimentListQuery,
    ExperimentQuery,
    ExperimentResponse,
    InterleavingRequest,
    InterleavingResponse,
)
from learning.interleaving.results import list_drafts, read_result
from learning.interleaving.tokens import MAX_NAME_BYTES
from learning.requests import read_draft
from learning.scope_query import learning_errors
from runtime.http.access import Caller
from runtime.http.answer import json_answer
from runtime.http.openapi import error_responses, request_body

PATH = "/v1/interleavings"
_EXAMPLE: dict[str, Any] = {
    "experiment": "new-ranker",
    "a": {"name": "bm25-v3", "documents": ["doc-1", "doc-2", "doc-3"]},
    "b": {"name": "dense-v1", "documents": ["doc-3", "doc-1", "doc-4"]},
    "k": 3,
    "execution_id": "search-4711",
}
ExperimentPath = Annotated[str, Path(description="name of the experiment", max_length=MAX_NAME_BYTES)]


def add_interleaving_routes(router: APIRouter, context: LearningContext) -> None:
    """Add the endpoints of interleaving."""
    settings = context.settings

    @router.post(
        PATH,
        responses=error_responses(408, 413, 415, ok=InterleavingResponse),
        openapi_extra=request_body(InterleavingRequest.model_json_schema(), _EXAMPLE),
    )
    async def interleave(request: Request, caller: Annotated[Caller, Depends(context.writer)]) -> Response:
        """Interleave two rankings by team draft. Each result has a token for `metadata.interleaving` of its events."""
        body = await read_draft(request, context, InterleavingRequest)
        return json_answer(make_draft(body.draft_request(), context.access.key_of(caller), caller.namespace)).response()

    @router.get(PATH, response_model=ExperimentList, responses=error_responses())
    async def list_interleavings(
        caller: Annotated[Caller, Depends(context.reader)], query: Annotated[ExperimentListQuery, Query()]
    ) -> Response:
        """List the experiments with events in a range, the one with the newest event first. Tokens are not verified."""
        since, until = query.range()
        with context.limit.slot(), learning_errors():
            found = await list_experiments(settings, context.database, caller.namespace, since, until)
        return json_answer({"experiments": found}).response()

    @router.get(PATH + "/{experiment}", response_model=ExperimentResponse, responses=error_responses())
    async def get_interleaving_result(
        experiment: ExperimentPath,
        caller: Annotated[Caller, Depends(context.reader)],
        query: Annotated[ExperimentQuery, Query()],
    ) -> Response:
        """Say which ranking people prefer. The answer may be looked at after every event.

        The verdict is refused where the sample ratio is broken, or where the rankings have several names.
        """
        scope = query.scope(caller.namespace, experiment)
        with context.limit.slot(), learning_errors():
            found = await read_result(settings, context.database, scope)
        return json_answer(found.described()).response()

    @router.get(PATH + "/{experiment}/drafts", response_model=DraftsResponse, responses=error_responses())
    async def list_interleaving_drafts(
        experiment: ExperimentPath,
        caller: Annotated[Caller, Depends(context.reader)],
        query: Annotated[DraftQuery, Query()],
    ) -> Response:
        """List the drafts of an experiment with the events that decided them."""
        scope = query.scope(caller.namespace, experiment)
        with context.limit.slot(), learning_errors():
            page = await list_drafts(settings, context.database, scope, query.filter())
        return json_answer(page._asdict()).response()
