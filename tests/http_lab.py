"""The API on a test's own topic and tables: in this process, or as a process of its own."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache, partial
from http import HTTPStatus
from typing import Any

import httpx
from fastapi import FastAPI
from pydantic import SecretStr
from starlette.applications import Starlette

from consumers.worker import Worker
from runtime.http.server import ApiServer
from runtime.ports import free_port, listening_sockets
from runtime.settings import Settings
from tally.serve import Role, app_of
from tests.waiting import eventually_async

KEY = "a-secret-key"
BEARER = {"Authorization": f"Bearer {KEY}"}
PATH = "/v1/retrievers/interactions"
NAMESPACES = ("default", "shop")
EVENT: dict[str, Any] = {"feature_id": "doc-1", "interaction_type": ["click"], "position": 0, "execution_id": "e"}


def with_key(settings: Settings, **overrides: Any) -> Settings:
    """Settings of a test's API: short waits, and no rate limits unless a test sets them."""
    own = {
        "api_key": SecretStr(KEY),
        "api_namespaces": NAMESPACES,
        "read_wait_ms": 50,
        "delivery_timeout_ms": 1_000,
        "clock_skew_ms": 0,
        "rate_limit_per_s": 0,
        "keys_refresh_ms": 50,
        "redis_patience_ms": 5_000,
        "health_every_ms": 0,
    }
    return settings.model_copy(update=own | overrides)


@cache
def _document(role: Role) -> dict[str, Any]:
    return app_of(Settings(), role).openapi()


def app_with_document(settings: Settings, role: Role = "all") -> FastAPI:
    """The application, with the OpenAPI document of another: generating it takes most of the time of a start."""
    app = app_of(settings, role)
    app.openapi = partial(_document, role)  # type: ignore[method-assign]
    return app


@asynccontextmanager
async def api_of(settings: Settings, role: Role = "all") -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application in this process, without a network in between."""
    app = app_with_document(settings, role)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with lifespan(app), httpx.AsyncClient(transport=transport, base_url="http://t", headers=BEARER) as client:
        yield client


async def until_keys_are_known(api: httpx.AsyncClient) -> None:
    """Wait until the API has read its keys; before that, an unknown key is a 503 instead of a 401."""

    async def are_known() -> bool:
        return bool((await api.get("/v1/ready")).json()["dependencies"]["keys"] == "ok")

    await eventually_async(are_known)


async def until_all_ready(api: httpx.AsyncClient, dependencies: set[str]) -> None:
    """Wait until exactly these dependencies are ok: a new group has no coordinator for some time, for example."""

    async def are_ok() -> bool:
        answer = await api.get("/v1/ready")
        states = answer.json()["dependencies"]
        assert set(states) == dependencies
        return answer.status_code == HTTPStatus.OK and set(states.values()) == {"ok"} and not answer.json()["problems"]

    await eventually_async(are_ok)


def lifespan(app: Starlette) -> Any:
    """The application's start and stop."""
    return app.router.lifespan_context(app)


@asynccontextmanager
async def served(settings: Settings, role: Role = "all", port: int = 0, host: str = "127.0.0.1") -> AsyncIterator[str]:
    """Serve the application from a real server in this process, and yield its address."""
    port = port or free_port()
    server = ApiServer(app_with_document(settings, role), settings)
    with listening_sockets(host, port) as sockets:
        serving = asyncio.create_task(server.serve(sockets))
        while not server.started:
            assert not serving.done(), "the server did not start"
            await asyncio.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.stop()
            await serving


@asynccontextmanager
async def consuming(settings: Settings, workers: int = 1) -> AsyncIterator[None]:
    """Workers on the topic, in this process."""
    running = [Worker(settings, instance=None, until_caught_up=False) for _ in range(workers)]
    tasks = [asyncio.create_task(worker.run()) for worker in running]
    try:
        yield
    finally:
        for worker in running:
            worker.stop()
        await asyncio.gather(*tasks)


def assert_error(answer: httpx.Response, status: int, kind: str, code: str | None = None) -> dict[str, Any]:
    """An error is in the published shape; returns it."""
    body = answer.json()
    assert answer.status_code == body["status"] == status, answer.text
    assert body["success"] is False
    assert set(body) == {"success", "status", "error"}
    error: dict[str, Any] = body["error"]
    assert set(error) == {"message", "type", "code", "details"}
    assert (error["type"], error["code"]) == (kind, code)
    assert answer.headers["x-request-id"]
    return error
