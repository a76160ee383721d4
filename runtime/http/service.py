"""API application: modules (collector, reader) with common health, readiness, metrics, errors and limits."""

import gc
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from http import HTTPStatus
from importlib import metadata
from typing import NamedTuple, Protocol

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.types import Scope as ASGIScope

from runtime.clickhouse import ClickHouse, connect
from runtime.errors import Unavailable
from runtime.http import openapi, paths
from runtime.http.access import CURRENT_KEY, Access, Caller
from runtime.http.best_effort import BestEffortRedis
from runtime.http.docs_page import docs_routes
from runtime.http.errors import MAX_PROBLEMS, ApiError, invalid, problem, store_unavailable
from runtime.http.front import Api, with_middleware
from runtime.http.headers import headers_of
from runtime.http.hot_routes import HotRoutes, hot_routes_of
from runtime.http.keys import Scope
from runtime.http.limits import RateLimits
from runtime.http.middleware import CALLER, EXTRA_HEADERS
from runtime.http.readiness import Check, Readiness
from runtime.http.start_page import start_routes
from runtime.metrics import BUILD
from runtime.settings import Settings
from runtime.traces import Traces

log = logging.getLogger("tally.api")

CallerOf = Callable[[Request], Awaitable[Caller]]
"""Dependency that authenticates the caller of a request."""


class AppContext(NamedTuple):
    """Context shared by all API modules, and their admission control."""

    settings: Settings
    access: Access
    limits: RateLimits
    redis: BestEffortRedis
    readiness: Readiness

    def require_scope(self, scope: Scope | None) -> CallerOf:
        """Return a dependency that authenticates a caller with this scope; None: with any key.

        It raises ApiError 401, 403 or 429.
        """

        async def caller(request: Request) -> Caller:
            return await self.admit(request.scope, scope)

        return caller

    async def admit(self, request: ASGIScope, scope: Scope | None) -> Caller:
        """Authenticate a request's key, and spend a token of its rate limit. Raises ApiError 401, 403 or 429."""
        return await self._apply_rate_limit(request, self.access.caller(headers_of(request), scope))

    async def admit_page(self, request: ASGIScope, token: str) -> Caller:
        """Authenticate a page's request, and spend a token of its key's rate limit. Raises ApiError 401, 403 or 429."""
        return await self._apply_rate_limit(request, self.access.page(headers_of(request), token))

    async def _apply_rate_limit(self, request: ASGIScope, caller: Caller) -> Caller:
        request[CALLER] = caller
        CURRENT_KEY.set(caller.key_id)
        if spent := await self.limits.spend(caller):
            request.setdefault(EXTRA_HEADERS, {}).update(spent)
        return caller


class Stores(NamedTuple):
    """Connections to ClickHouse, each with its own threads, so that slow queries do not delay others."""

    lookups: ClickHouse
    lists: ClickHouse
    monitoring: ClickHouse
    """Connection for keys and readiness."""


class ApiModule(Protocol):
    """Module of the API: endpoints and their connections."""

    def routes(self, context: AppContext) -> APIRouter:
        """Return the module's endpoints."""

    def opened(self, context: AppContext, stores: Stores) -> AbstractAsyncContextManager[Mapping[str, Check]]:
        """Connect, and yield readiness checks by name. On exit finish accepted work, then disconnect."""


def create_app(
    settings: Settings,
    modules: Sequence[ApiModule],
    hosts: Collection[str] = (),
    metrics: Callable[[], bytes] = generate_latest,
) -> FastAPI:
    """Return the application, which connects at its start and disconnects at its stop.

    `hosts` are the accepted host names; empty: any. `metrics` returns the metrics in Prometheus' text format.
    """
    redis = BestEffortRedis(settings)
    readiness = Readiness()
    base = AppContext(settings, Access(settings), RateLimits(settings, redis), redis, readiness)
    traces = Traces(settings, "tally-api")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            stack.enter_context(traces.exported())
            opened = [connect(settings, lazily=True, threads=threads) for threads in (4, 2, 2)]
            stores = Stores(*[await stack.enter_async_context(each) for each in opened])
            await stack.enter_async_context(base.access.refreshed(stores.monitoring))
            if settings.redis.get_secret_value():
                await stack.enter_async_context(redis.opened())
            checks = {
                "redis": Check(redis.check, needed=False),
                "keys": Check(base.access.check, needed=False),
            }
            for module in modules:
                checks |= await stack.enter_async_context(module.opened(base, stores))
            app.openapi()  # cached; generating it takes as long as a hundred requests
            BUILD.labels(metadata.version("tally-server")).set(1)
            readiness.checks = checks
            # Existing objects are permanent: without the freeze each full collection stops requests for 100 ms.
            gc.collect()
            gc.freeze()
            yield
            readiness.stop()

    app = Api(
        title="Tally",
        version=metadata.version("tally-server"),
        summary="Every interaction, accounted for.",
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,  # the framework's own pages load their scripts from a public host
        redoc_url=None,
    )
    _answer_errors(app)
    routers = [module.routes(base) for module in modules]
    for router in routers:
        app.include_router(router)
    app.include_router(_operations(readiness, metrics))
    app.include_router(docs_routes())
    app.include_router(start_routes(settings))
    app.openapi = openapi.document_generator(app, open_paths=paths.WITHOUT_KEY)  # type: ignore[method-assign]
    hot = HotRoutes(app.by_framework, routes=[route for router in routers for route in hot_routes_of(router)])
    app.front = with_middleware(hot, settings, hosts, traces)
    return app


def _answer_errors(app: FastAPI) -> None:
    app.add_exception_handler(ApiError, _on_api_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(Unavailable, _on_unavailable)
    app.add_exception_handler(Exception, _on_unexpected)


def _operations(readiness: Readiness, metrics_text: Callable[[], bytes]) -> APIRouter:
    router = APIRouter(tags=["operations"])

    @router.get(paths.HEALTH, response_model=openapi.HealthResponse)
    async def health() -> dict[str, str]:
        """Liveness of the process, independent of its dependencies."""
        return {"status": "ok"}

    @router.get(
        paths.READY, response_model=openapi.ReadinessResponse, responses={503: {"model": openapi.ReadinessResponse}}
    )
    async def ready() -> JSONResponse:
        """Readiness, and the state of each dependency: ok, away, missing (not needed), or degraded."""
        answer = await readiness.check()
        return JSONResponse(answer._asdict(), status_code=200 if answer.ready else 503)

    @router.get(paths.METRICS, response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Metrics of this process, for Prometheus."""
        return Response(metrics_text(), media_type=CONTENT_TYPE_LATEST)

    return router


async def _on_api_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)  # noqa: S101  (FastAPI calls it for nothing else)
    return error.answer().response()


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED and (
        methods := openapi.methods_of(request.app.openapi(), request.scope["path"])
    ):
        headers["Allow"] = ", ".join(sorted(methods))  # the router itself names the methods of one endpoint only
    message = openapi.explain_status(error.status_code, request.scope["path"], headers.get("Allow", ""))
    return ApiError(error.status_code, message or str(error.detail), headers=headers).answer().response()


async def _on_invalid_request(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    problems = error.errors()
    problems_shown = [problem(each["type"], each["loc"], each["msg"]) for each in problems[:MAX_PROBLEMS]]
    return invalid(problems_shown, more=len(problems) - len(problems_shown)).answer().response()


async def _on_unexpected(_request: Request, error: Exception) -> Response:
    """Leave an error to RequestMiddleware, before the framework responds with a text of its own."""
    raise error


async def _on_unavailable(_request: Request, error: Exception) -> Response:
    return store_unavailable(error).answer().response()
