"""The application: parts (collector, reader) on one base of health, readiness, metrics, errors and limits."""

import asyncio
import gc
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from importlib import metadata
from typing import Any, Literal, NamedTuple, Protocol

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException

from runtime.clickhouse import ClickHouse, connect
from runtime.errors import Degraded, TallyError, Unavailable
from runtime.http import openapi, paths
from runtime.http.access import Access
from runtime.http.best_effort import BestEffort
from runtime.http.errors import MOST_PROBLEMS, ApiError, invalid, problem, unavailable
from runtime.http.head import HeadAsGet
from runtime.http.hosts import AllowedHosts
from runtime.http.limits import RateLimits
from runtime.http.middleware import REQUEST_ID, RequestMiddleware
from runtime.http.origins import serialized_origin
from runtime.metrics import BUILD
from runtime.settings import Settings
from runtime.traces import Traces

log = logging.getLogger("tally.api")

CHECK_S = 2.0
"""A dependency that takes longer to say that it is there is not."""
CHECKED_FOR_S = 0.5
"""Readiness results are cached for this long."""

EXPOSED = (
    REQUEST_ID,
    "X-Interaction-Id",
    "X-Duplicate-Of",
    "Retry-After",
    "Preference-Applied",
    "X-RateLimit-Limit",
    "X-RateLimit-Remaining",
    "X-RateLimit-Reset",
)


class Check(NamedTuple):
    """How to tell whether a dependency is there; without one that is not `needed` requests continue."""

    ask: Callable[[], Awaitable[None]]
    needed: bool = True


class AppContext(NamedTuple):
    """Context shared by all API modules."""

    settings: Settings
    access: Access
    limits: RateLimits
    redis: BestEffort


class Stores(NamedTuple):
    """Connections to ClickHouse, each with threads of its own: what takes long must not keep others waiting."""

    lookups: ClickHouse
    lists: ClickHouse
    watched: ClickHouse
    """For keys and readiness."""


class ApiModule(Protocol):
    """A part of the API."""

    def routes(self, base: AppContext) -> APIRouter:
        """Its endpoints."""

    def opened(self, base: AppContext, stores: Stores) -> AbstractAsyncContextManager[Mapping[str, Check]]:
        """Connect; gives what readiness looks at, by name. Leaving disconnects, after what was taken in is done."""


def create_app(settings: Settings, parts: Sequence[ApiModule], hosts: Collection[str] = ()) -> FastAPI:
    """The application; it connects when it starts and disconnects when it stops.

    `hosts` are the names that it answers to; none: to any.
    """
    redis = BestEffort(settings)
    base = AppContext(settings, Access(settings), RateLimits(settings, redis), redis)
    readiness = _Readiness()
    traces = Traces(settings, "tally-api")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            stack.enter_context(traces.exported())
            opened = [connect(settings, lazily=True, threads=threads) for threads in (4, 2, 2)]
            stores = Stores(*[await stack.enter_async_context(each) for each in opened])
            await stack.enter_async_context(base.access.kept_fresh(stores.watched))
            if settings.redis.get_secret_value():
                await stack.enter_async_context(redis.opened())
            checks = {
                "redis": Check(_redis_answers(redis), needed=False),
                "keys": Check(base.access.check, needed=False),
            }
            for part in parts:
                checks |= await stack.enter_async_context(part.opened(base, stores))
            app.openapi()  # kept from now on; making it takes as long as a hundred requests
            BUILD.labels(metadata.version("tally-server")).set(1)
            readiness.checks = checks
            # What is there by now stays: looking through all of it again and again takes 100 ms of some requests.
            gc.collect()
            gc.freeze()
            yield
            readiness.checks = {"process": Check(_stopping)}

    app = FastAPI(
        title="Tally",
        version=metadata.version("tally-server"),
        summary="Every interaction, accounted for.",
        lifespan=lifespan,
        redirect_slashes=False,
    )
    app.add_exception_handler(ApiError, _answer_api_error)
    app.add_exception_handler(HTTPException, _answer_http_error)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_exception_handler(Unavailable, _answer_unavailable)
    for part in parts:
        app.include_router(part.routes(base))
    app.include_router(_operations(readiness))
    app.openapi = openapi.document(app, open_paths=paths.WITHOUT_KEY)  # type: ignore[method-assign]
    if settings.cors_origins:
        app.add_middleware(
            _Cors,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "HEAD", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "Prefer", "X-Namespace", REQUEST_ID],
            expose_headers=EXPOSED,
        )
    app.add_middleware(HeadAsGet)
    if hosts:
        app.add_middleware(AllowedHosts, names=hosts)
    app.add_middleware(
        RequestMiddleware, most_in_flight=settings.http_in_flight, access_log=settings.http_access_log, traces=traces
    )
    return app


def _operations(readiness: "_Readiness") -> APIRouter:
    router = APIRouter(tags=["operations"])

    @router.get(paths.HEALTH, response_model=openapi.Health)
    async def health() -> dict[str, str]:
        """The process lives; it says nothing of what it depends on."""
        return {"status": "ok"}

    @router.get(paths.READY, response_model=openapi.Ready, responses={503: {"model": openapi.Ready}})
    async def ready() -> JSONResponse:
        """Whether requests can be answered now, and the state of each: ok, away, missing (not needed), or degraded."""
        answer = await readiness.look()
        return JSONResponse(answer, status_code=200 if answer["ready"] else 503)

    @router.get(paths.METRICS, response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Metrics of this process, for Prometheus."""
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return router


class _Cors(CORSMiddleware):
    """Lets pages of the origins in TALLY_CORS_ORIGINS call, however they are spelled."""

    def is_allowed_origin(self, origin: str) -> bool:
        """Whether pages of this origin may call."""
        with suppress(ValueError):
            origin = serialized_origin(origin)
        return super().is_allowed_origin(origin)


class _Readiness:
    def __init__(self) -> None:
        self.checks: Mapping[str, Check] = {"process": Check(_starting)}
        self._lock = asyncio.Lock()
        self._answer: dict[str, Any] = {}
        self._until = 0.0

    async def look(self) -> dict[str, Any]:
        async with self._lock:
            if time.monotonic() >= self._until:
                states = await asyncio.gather(*map(_state, self.checks.values()))
                named = {name: state for name, (state, _) in zip(self.checks, states, strict=True)}
                problems = [problem for _, problem in states if problem]
                self._answer = {"ready": "away" not in named.values(), "dependencies": named, "problems": problems}
                self._until = time.monotonic() + CHECKED_FOR_S
            return self._answer


async def _state(check: Check) -> tuple[Literal["ok", "away", "missing", "degraded"], str]:
    """A dependency's state, and what somebody has to look at."""
    try:
        async with asyncio.timeout(CHECK_S):
            await check.ask()
    except Degraded as error:
        return "degraded", str(error)
    except (TallyError, TimeoutError):
        return "away" if check.needed else "missing", ""
    return "ok", ""


def _redis_answers(redis: BestEffort) -> Callable[[], Awaitable[None]]:
    async def ask() -> None:
        if await redis.ask("readiness", lambda connected: connected.ping()) is None:
            raise Unavailable("Redis does not answer")

    return ask


async def _starting() -> None:
    raise Unavailable("the process is starting")


async def _stopping() -> None:
    raise Unavailable("the process is stopping")


async def _answer_api_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)  # noqa: S101  (FastAPI calls it for nothing else)
    return error.response()


async def _answer_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    headers = dict(error.headers or {})
    if error.status_code == 405 and (methods := openapi.methods_of(request.app.openapi(), request.scope["path"])):
        headers["Allow"] = ", ".join(sorted(methods))  # the router itself names those of one of its endpoints only
    return ApiError(error.status_code, str(error.detail), headers=headers).response()


async def _answer_invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    problems = error.errors()
    told = [problem(each["type"], each["loc"], each["msg"]) for each in problems[:MOST_PROBLEMS]]
    return invalid(told, more=len(problems) - len(told)).response()


async def _answer_unavailable(_request: Request, error: Exception) -> Response:
    # Not its text: addresses stand in it.
    log.warning("%s", error)
    return unavailable("a store behind this service does not answer, try again").response()
