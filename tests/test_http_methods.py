"""HEAD answers as GET does, without the body, on every GET route."""

import asyncio
import http.client
from urllib.parse import urlsplit

import httpx
import pytest

from runtime.metrics_server import serve_metrics
from runtime.ports import free_port
from runtime.settings import Settings
from tests.http_lab import BEARER, PATH, api_of, assert_error, served, with_key
from tests.lab import Lab, click

UNKNOWN = f"{PATH}/int_{'0' * 32}"


async def test_head_is_get_without_the_body(lab: Lab) -> None:
    (receipt,) = await lab.emit(click())
    await lab.drain()
    stored = f"{PATH}/{receipt.interaction_id}"
    paths = (
        "/v1/health",
        "/v1/ready",
        "/metrics",
        "/openapi.json",
        "/docs",
        "/docs/swagger-ui-bundle.js",
        "/v1/outcomes",
        stored,
        f"{stored}/status",
        UNKNOWN,
    )
    async with served(with_key(lab.settings)) as url, httpx.AsyncClient(base_url=url, headers=BEARER) as api:
        for path in paths:
            got, head = await api.get(path), await api.head(path)
            assert head.status_code == got.status_code, path
            assert head.content == b""
            assert head.headers["content-type"] == got.headers["content-type"]
            if path != "/metrics":  # which counts the answers in between
                assert head.headers["content-length"] == str(len(got.content)), path
            assert head.headers["x-request-id"]
        assert (await api.head("/v1/outcomes", headers={"Authorization": ""})).status_code == 401
        counted = (await api.get("/metrics")).text
    assert 'tally_http_requests_total{method="HEAD",route="/v1/health",status="200"}' in counted


async def test_a_connection_is_kept_after_head(lab: Lab) -> None:
    """No byte of a body follows, which a client would take for the next answer."""
    async with served(with_key(lab.settings)) as url:

        def ask() -> list[int]:
            connection = http.client.HTTPConnection(urlsplit(url).netloc)
            found = []
            for method, path in (
                ("HEAD", "/v1/health"),
                ("HEAD", "/nowhere"),
                ("GET", "/v1/health"),
                ("HEAD", UNKNOWN),
            ):
                connection.request(method, path)
                answer = connection.getresponse()
                answer.read()
                found.append(answer.status)
            return found

        assert await asyncio.to_thread(ask) == [200, 404, 200, 401]


async def test_other_methods_are_answered_with_the_allowed_ones(lab: Lab) -> None:
    async with api_of(with_key(lab.settings)) as api:
        for path, methods in (("/v1/health", "GET, HEAD"), (UNKNOWN, "DELETE, GET, HEAD"), (PATH, "POST")):
            answer = await api.patch(path)
            assert_error(answer, 405, "MethodNotAllowedError")
            assert answer.headers["allow"] == methods
        for path in (PATH, f"{PATH}/list", f"{PATH}/beacon"):
            assert (await api.head(path)).status_code in (404, 405), "there is no GET"


@pytest.mark.parametrize("path", ["/metrics", "/v1/health", "/v1/ready", "/nowhere"])
async def test_a_workers_port_answers_head(path: str) -> None:
    settings = Settings(metrics_port=free_port())
    with serve_metrics(settings, why_not_ready=lambda: ""):
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{settings.metrics_port}") as port:
            got, head = await port.get(path), await port.head(path)
    assert (head.status_code, head.content) == (got.status_code, b"")
    assert head.headers["content-type"] == got.headers["content-type"]
