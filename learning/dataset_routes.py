"""Endpoints of evaluation datasets: those of the published service, and a deletion."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from learning.context import LearningContext
from learning.dataset_requests import (
    DatasetDeleted,
    DatasetList,
    DatasetPageQuery,
    DatasetRequest,
    DatasetResponse,
    GenerateRequest,
)
from learning.datasets import DatasetConflict, Datasets, NewDataset, TooManyDatasets, UnknownDataset
from learning.requests import read_evaluation
from learning.scope import ScopeError
from learning.scope_query import RetrieverId, learning_errors
from runtime.http.access import Caller
from runtime.http.answer import json_answer
from runtime.http.errors import ApiError, invalid, problem
from runtime.http.openapi import error_responses, request_body

_DATASETS = "/v1/retrievers/evaluations/datasets"
_ONE = f"{_DATASETS}/{{dataset_identifier:path}}"
DatasetIdentifier = Annotated[str, Path(description="id or name of the dataset", max_length=1_024)]
_EXAMPLE = {
    "dataset_name": "shoes",
    "queries": [
        {
            "query_id": "q1",
            "query_input": {"text": "running shoes"},
            "relevant_documents": ["doc-1", "doc-2"],
            "relevance_scores": {"doc-1": 3, "doc-2": 1},
        }
    ],
}


class DatasetEndpoints:
    """Endpoints of evaluation datasets. Their work counts towards the limit of the context."""

    def __init__(self, context: LearningContext) -> None:
        self._settings = context.settings
        self._limit = context.limit
        self._context = context

    async def create(self, request: Request, namespace: str) -> Response:
        """Store a dataset."""
        body = await read_evaluation(request, self._context, DatasetRequest)
        with self._limit.slot():
            self._check_size(body)
            content = await asyncio.to_thread(body.content)
            new = NewDataset(body.dataset_name, content, description=body.description, metadata=body.metadata)
            with _dataset_errors():
                found = await self._of(namespace).create(new)
            return await _answer(found.body(namespace))

    async def generate(self, request: Request, namespace: str, retriever: str) -> Response:
        """Define a dataset by the interactions that are stored now, and return it."""
        body = await read_evaluation(request, self._context, GenerateRequest)
        with self._limit.slot():
            try:
                name = body.name(retriever)
            except ValueError as error:
                raise invalid([problem("bad_name", ["body", "dataset_name"], str(error))]) from None
            with _dataset_errors():
                definition = body.definition(retriever, self._settings.query_path)
                found = await self._of(namespace).generate(name, definition)
            return await _answer(found.body(namespace))

    async def page(self, namespace: str, query: DatasetPageQuery) -> Response:
        """Return a page of datasets."""
        with self._limit.slot(), _dataset_errors():
            found = await self._of(namespace).page(query.page, query.page_size)
            listed = [dataset.body(namespace) for dataset in found.datasets]
            return await _answer(
                {"datasets": listed, "total": found.total, "page": query.page, "page_size": query.page_size}
            )

    async def get(self, namespace: str, identifier: str) -> Response:
        """Return one dataset."""
        with self._limit.slot(), _dataset_errors():
            return await _answer((await self._of(namespace).get(identifier)).body(namespace))

    async def delete(self, namespace: str, identifier: str) -> DatasetDeleted:
        """Delete one dataset."""
        with _dataset_errors():
            await self._of(namespace).delete(identifier)
        return DatasetDeleted(message="the dataset is deleted", success=True)

    def _of(self, namespace: str) -> Datasets:
        return Datasets(self._settings, self._context.database, namespace)

    def _check_size(self, body: DatasetRequest) -> None:
        most = self._settings.evaluation_queries
        if len(body.queries) > most:
            message = f"{len(body.queries):,} queries, at most {most:,} are allowed (TALLY_EVALUATION_QUERIES)"
            raise invalid([problem("too_many", ["body", "queries"], message)])


def add_dataset_routes(router: APIRouter, context: LearningContext) -> None:
    """Add the endpoints of evaluation datasets."""
    endpoints = DatasetEndpoints(context)
    reader, writer, deleter = context.reader, context.writer, context.deleter

    @router.post(
        _DATASETS,
        responses=error_responses(408, 409, 413, 415, ok=DatasetResponse),
        openapi_extra=request_body(DatasetRequest.model_json_schema(), _EXAMPLE),
    )
    async def create_dataset(request: Request, caller: Annotated[Caller, Depends(writer)]) -> Response:
        """Store an evaluation dataset: queries with their relevant documents. Its name must be free."""
        return await endpoints.create(request, caller.namespace)

    @router.get(_DATASETS, response_model=DatasetList, responses=error_responses())
    async def list_datasets(
        caller: Annotated[Caller, Depends(reader)], query: Annotated[DatasetPageQuery, Query()]
    ) -> Response:
        """List the evaluation datasets with their queries, the newest first.

        One that cannot be computed has no queries, and the reason as `error` in its metadata.
        """
        return await endpoints.page(caller.namespace, query)

    @router.get(_ONE, response_model=DatasetResponse, responses=error_responses(404))
    async def get_dataset(
        dataset_identifier: DatasetIdentifier, caller: Annotated[Caller, Depends(reader)]
    ) -> Response:
        """Return an evaluation dataset by its id or name. A generated one is computed from the stored events."""
        return await endpoints.get(caller.namespace, dataset_identifier)

    @router.delete(_ONE, response_model=DatasetDeleted, responses=error_responses(404))
    async def delete_dataset(
        dataset_identifier: DatasetIdentifier, caller: Annotated[Caller, Depends(deleter)]
    ) -> DatasetDeleted:
        """Delete an evaluation dataset by its id or name."""
        return await endpoints.delete(caller.namespace, dataset_identifier)

    @router.post(
        "/v1/retrievers/{retriever_id}/evaluations/generate-from-interactions",
        responses=error_responses(408, 409, 413, 415, ok=DatasetResponse),
        openapi_extra=_optional(request_body(GenerateRequest.model_json_schema(), {"dataset_name": "clicked"})),
    )
    async def generate_dataset(
        request: Request, retriever_id: RetrieverId, caller: Annotated[Caller, Depends(writer)]
    ) -> Response:
        """Make an evaluation dataset from the positive interactions with a retriever's results."""
        return await endpoints.generate(request, caller.namespace, retriever_id)


def _optional(description: dict[str, Any]) -> dict[str, Any]:
    description["requestBody"]["required"] = False
    return description


async def _answer(body: dict[str, Any]) -> Response:
    return await asyncio.to_thread(lambda: json_answer(body).response())


@contextmanager
def _dataset_errors() -> Iterator[None]:
    """Raise ApiError for the errors of datasets."""
    try:
        with learning_errors():
            yield
    except DatasetConflict as error:
        raise ApiError(409, str(error), code="dataset_exists") from None
    except UnknownDataset as error:
        raise ApiError(404, str(error), code="unknown_dataset") from None
    except TooManyDatasets as error:
        raise ApiError(422, str(error), code="too_many_datasets") from None
    except ScopeError as error:
        raise invalid([problem("bad_scope", ["path", error.parameter], str(error))]) from None
