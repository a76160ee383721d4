"""Endpoints of learning configurations."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from learning.context import LearningContext
from learning.requests import read_value
from learning.scope import ScopeError, checked_retriever
from learning.scope_query import RetrieverId
from learning.weights.config_text import ConfigError, parse_config
from learning.weights.configs import (
    ConfigConflict,
    ConfigVersion,
    LearningConfigVersions,
    TooManyConfigs,
    UnknownConfig,
)
from runtime.http.access import Caller
from runtime.http.answer import json_answer
from runtime.http.errors import ApiError, invalid, problem
from runtime.http.openapi import error_responses, request_body
from runtime.http.times import Time
from schemas.event_time import iso_ms
from schemas.learning_config import LearningConfig

PATH = "/v1/retrievers/{retriever_id}/learning-config"
MAX_VERSIONS = 1_000
_EXAMPLE = {"reward_map": {"click": 1, "purchase": 3}, "min_interactions": 10}


class HistoryQuery(BaseModel):
    """Versions to list: the newest ones, or the one that was in force at a time."""

    model_config = ConfigDict(extra="forbid")

    at: Time | None = Field(None, description="time, ISO 8601: list the version that was in force then, if any")
    limit: int = Field(100, ge=1, le=MAX_VERSIONS, description="maximum versions")


class ConfigResponse(BaseModel):
    """Learning configuration in force."""

    retriever_id: str
    namespace: str
    version: int = Field(description="changes of this configuration so far, deletions included")
    changed_at: datetime
    until: datetime | None = Field(description="time of the next version; null: in force")
    learning_config: LearningConfig | None = Field(description="null: deleted")


class ChangedValue(BaseModel):
    """Values of one name before and after a change; null: null, or no configuration."""

    before: Any
    after: Any


class ChangeResponse(ConfigResponse):
    """Learning configuration after a change."""

    changed: dict[str, ChangedValue] = Field(description="names with other values than before")


class HistoryVersion(BaseModel):
    """Version of a learning configuration."""

    version: int
    changed_at: datetime
    until: datetime | None
    learning_config: LearningConfig | None


class HistoryResponse(BaseModel):
    """Versions, the newest first."""

    retriever_id: str
    namespace: str
    versions: list[HistoryVersion]
    truncated: bool = Field(description="whether the limit left older versions out")


class ConfiguredRetriever(BaseModel):
    """Retriever with a learning configuration in force."""

    retriever_id: str
    version: int
    changed_at: datetime


class ConfigList(BaseModel):
    """Retrievers with a learning configuration in force, by name, TALLY_LEARNING_CONFIGS at most."""

    configs: list[ConfiguredRetriever]


def add_config_routes(router: APIRouter, context: LearningContext) -> None:
    """Add the endpoints of learning configurations. DELETE needs the scope write, as PUT: it deletes no event."""
    reader, writer = context.reader, context.writer

    of = partial(_versions_of, context)

    @router.put(
        PATH,
        responses=error_responses(408, 409, 413, 415, ok=ChangeResponse),
        openapi_extra=request_body(LearningConfig.model_json_schema(), _EXAMPLE),
    )
    async def put_learning_config(
        request: Request, retriever_id: RetrieverId, caller: Annotated[Caller, Depends(writer)]
    ) -> Response:
        """Put a learning configuration in force. Names that are left out have their defaults.

        Equal content makes no new version. Of two changes at the same time one is a 409.
        """
        value = await read_value(request, context)
        with config_errors():
            config = parse_config({} if value is None else value)
            found = await of(caller).put(checked_retriever(retriever_id), config)
        changed = {name: pair._asdict() for name, pair in found.changed.items()}
        return _answer(caller, retriever_id, {**found.version.body(), "changed": changed})

    @router.get(PATH, response_model=ConfigResponse, responses=error_responses(404))
    async def get_learning_config(retriever_id: RetrieverId, caller: Annotated[Caller, Depends(reader)]) -> Response:
        """Return the learning configuration in force, every name included."""
        with config_errors():
            found = await of(caller).get(retriever_id)
        return _answer(caller, retriever_id, found.body())

    @router.delete(PATH, response_model=ConfigResponse, responses=error_responses(404, 409))
    async def delete_learning_config(retriever_id: RetrieverId, caller: Annotated[Caller, Depends(writer)]) -> Response:
        """Delete the learning configuration: static weights are served from now on. Its history stays."""
        with config_errors():
            found = await of(caller).delete(retriever_id)
        return _answer(caller, retriever_id, found.body())

    @router.get(f"{PATH}/history", response_model=HistoryResponse, responses=error_responses(404))
    async def get_learning_config_history(
        retriever_id: RetrieverId,
        caller: Annotated[Caller, Depends(reader)],
        query: Annotated[HistoryQuery, Query()],
    ) -> Response:
        """List the versions of a learning configuration, the newest first, each with the time it was in force."""
        with config_errors():
            found = await _history(of(caller), retriever_id, query)
        listed = [each.body() for each in found[: query.limit]]
        return _answer(caller, retriever_id, {"versions": listed, "truncated": len(found) > query.limit})


def add_config_list(router: APIRouter, context: LearningContext) -> None:
    """Add the endpoint that lists the configured retrievers."""

    @router.get("/v1/learning-configs", response_model=ConfigList, responses=error_responses())
    async def list_learning_configs(caller: Annotated[Caller, Depends(context.reader)]) -> Response:
        """List the retrievers that have a learning configuration in force."""
        found = await _versions_of(context, caller).in_force()
        configs = [
            {"retriever_id": each.retriever, "version": each.version, "changed_at": iso_ms(each.changed_at)}
            for each in found
        ]
        return json_answer({"configs": configs}).response()


def _versions_of(context: LearningContext, caller: Caller) -> LearningConfigVersions:
    return LearningConfigVersions(context.settings, context.database, caller.namespace)


async def _history(versions: LearningConfigVersions, retriever: str, query: HistoryQuery) -> list[ConfigVersion]:
    """Return the versions, and one more than the limit if there are more."""
    if query.at is None:
        return await versions.history(retriever, query.limit + 1)
    found = await versions.at(retriever, query.at)
    return [] if found is None else [found]


def _answer(caller: Caller, retriever: str, body: dict[str, Any]) -> Response:
    return json_answer({"retriever_id": retriever, "namespace": caller.namespace, **body}).response()


@contextmanager
def config_errors() -> Iterator[None]:
    """Raise ApiError for the errors of learning configurations."""
    try:
        yield
    except ConfigError as error:
        problems = [problem("bad_config", ["body", *each.location], each.message) for each in error.problems]
        raise invalid(problems) from None
    except ScopeError as error:
        raise invalid([problem("bad_scope", ["path", "retriever_id"], str(error))]) from None
    except ConfigConflict as error:
        raise ApiError(409, str(error), code="config_changed") from None
    except UnknownConfig as error:
        raise ApiError(404, str(error), code="unknown_config") from None
    except TooManyConfigs as error:
        raise ApiError(422, str(error), code="too_many_configs") from None
