"""The HTTP API. So far: one record by id, and whether the process lives."""

import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

import msgspec
from fastapi import Depends, FastAPI, Path, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from readers.access import namespace_of
from readers.errors import ApiError, answer_api_error, not_found, unavailable
from readers.lookup import DuplicateOf, Lookups, RejectedFor, Stored
from runtime.clickhouse import connect
from runtime.errors import Unavailable
from runtime.settings import Settings
from schemas.identity import is_interaction_id
from schemas.record import InteractionRecord, record_from_row

log = logging.getLogger("tally.api")

REQUEST_ID = "X-Request-Id"
_KINDS = {400: "BadRequestError", 404: "NotFoundError", 405: "MethodNotAllowedError"}


def create_app(settings: Settings) -> FastAPI:
    """The application; it connects when it starts and disconnects when it stops."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with connect(settings) as database:
            app.state.lookups = Lookups(database, settings.lookup_in_flight)
            yield

    app = FastAPI(title="Tally", version="0.1.0", lifespan=lifespan, redirect_slashes=False)
    app.middleware("http")(_with_request_id)
    app.add_exception_handler(ApiError, answer_api_error)
    app.add_exception_handler(HTTPException, _answer_http_error)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_exception_handler(Unavailable, _answer_unavailable)
    _add_routes(app, settings)
    return app


def _add_routes(app: FastAPI, settings: Settings) -> None:
    def authorized(request: Request) -> str:
        return namespace_of(request, settings)

    @app.get("/v1/health")
    async def health() -> dict[str, str]:
        """The process lives; it says nothing of what it depends on."""
        return {"status": "ok"}

    @app.get(
        "/v1/retrievers/interactions/{interaction_id}",
        response_model=InteractionRecord,
        responses={401: {}, 403: {}, 404: {}, 422: {"description": "the event was rejected; why"}, 503: {}},
    )
    async def get_interaction(
        interaction_id: Annotated[str, Path()], namespace: Annotated[str, Depends(authorized)]
    ) -> Response:
        """One interaction by its id. A duplicate answers its owner's record and `X-Duplicate-Of`."""
        return await _get_interaction(app.state.lookups, namespace, interaction_id)


async def _get_interaction(lookups: Lookups, namespace: str, interaction_id: str) -> Response:
    if not is_interaction_id(interaction_id):
        raise not_found(interaction_id)
    match await lookups.get(namespace, interaction_id):
        case Stored(row):
            return _json(record_from_row(row))
        case DuplicateOf(owner_id):
            owner = await lookups.get(namespace, owner_id)
            if not isinstance(owner, Stored):
                raise not_found(interaction_id)
            return _json(record_from_row(owner.row, deduplicated=True), {"X-Duplicate-Of": owner_id})
        case RejectedFor(reason, field, message, replayed_as):
            error = {"type": reason, "location": field.split(".") if field else [], "message": message}
            details: dict[str, Any] = {"validation_errors": [error]}
            if replayed_as:
                details["replayed_as"] = replayed_as
            raise ApiError(
                422,
                "ValidationError",
                f"the event was rejected: {reason}",
                code=reason,
                details=details,
            )
    raise not_found(interaction_id)


def _json(record: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(record), media_type="application/json", headers=headers)


async def _with_request_id(request: Request, call: Callable[[Request], Awaitable[Response]]) -> Response:
    request_id = uuid.uuid4().hex
    try:
        response = await call(request)
    except Exception:
        # The last resort: the client gets an id, the trace stays in the log.
        log.exception("request %s failed", request_id)
        message = f"an unexpected error; quote request {request_id} to whoever runs this service"
        response = ApiError(500, "InternalServerError", message).response()
    response.headers[REQUEST_ID] = request_id
    return response


async def _answer_http_error(_request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    kind = _KINDS.get(error.status_code, "Error")
    headers = dict(error.headers or {})
    return ApiError(error.status_code, kind, str(error.detail), headers=headers).response()


async def _answer_invalid(_request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    found = [{"type": each["type"], "location": list(each["loc"]), "message": each["msg"]} for each in error.errors()]
    return ApiError(422, "ValidationError", "the request is not valid", details={"validation_errors": found}).response()


async def _answer_unavailable(_request: Request, error: Exception) -> Response:
    log.warning("%s", error)
    return unavailable("a store behind this service does not answer, try again").response()
