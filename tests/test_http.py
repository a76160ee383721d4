"""Common parts of the API: refusals of too many requests, readiness, request ids, logs, CORS and the schema."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import Request
from pydantic import SecretStr

from runtime.errors import Unavailable
from runtime.http.keys import ROOT, PageToken, hash_of
from runtime.http.prefer import wait_s
from runtime.settings import Settings
from tally.serve import app_of
from tests.http_lab import (
    BEARER,
    EVENT,
    KEY,
    PATH,
    api_of,
    assert_error,
    served,
    until_all_ready,
    until_keys_are_known,
    with_key,
)
from tests.lab import Lab
from tests.waiting import eventually_async


async def test_too_many_requests_are_429(lab: Lab) -> None:
    settings = with_key(lab.settings, rate_limit_per_s=1, rate_limit_burst_ms=3_000)
    async with api_of(settings) as api:

        async def is_limited() -> bool:
            answer = await api.get("/v1/outcomes")
            if answer.status_code != 429:
                return False
            assert_error(answer, 429, "RateLimitError")
            assert answer.headers["x-ratelimit-limit"] == "3"
            return True

        await eventually_async(is_limited)
        assert (await api.get("/v1/health")).status_code == 200
        token = PageToken.until(ROOT, "default", "https://a.example", 60).signed(hash_of(KEY))
        paged = await api.post(f"{PATH}/beacon?token={token}", json=EVENT, headers={"Origin": "https://a.example"})
        assert paged.status_code == 429, "a page's token spends of its key"


async def test_without_redis_requests_pass_and_are_counted(lab: Lab) -> None:
    away = with_key(lab.settings, redis=SecretStr("redis://127.0.0.1:1"), rate_limit_per_s=1, rate_limit_burst_ms=1)
    async with api_of(away) as api:
        for _ in range(5):
            assert (await api.post(PATH, json=EVENT)).status_code == 200
        counted = (await api.get("/metrics")).text
        assert 'tally_http_redis_bypassed_total{purpose="rate limit"}' in counted
        assert 'tally_http_redis_bypassed_total{purpose="hint"}' in counted
        ready = await api.get("/v1/ready")
        assert (ready.status_code, ready.json()["dependencies"]["redis"]) == (200, "missing")


async def test_readiness_reports_each_dependency(lab: Lab) -> None:
    settings = with_key(lab.settings)
    for role, names in (
        ("collector", {"kafka", "keys", "redis"}),
        ("reader", {"clickhouse", "keys", "progress", "redis", "workers"}),
        ("all", {"kafka", "clickhouse", "keys", "progress", "redis", "workers"}),
    ):
        async with api_of(settings, role) as api:  # type: ignore[arg-type]
            await until_all_ready(api, names)
    nowhere = with_key(lab.settings, clickhouse=SecretStr("http://127.0.0.1:1"), connect_timeout_ms=100)
    async with api_of(nowhere) as api:
        answer = await api.get("/v1/ready")
        assert (answer.status_code, answer.json()["ready"]) == (503, False)
        assert answer.json()["dependencies"]["clickhouse"] == "away"
        assert (await api.get("/v1/health")).status_code == 200
        assert (await api.post(PATH, json=EVENT)).status_code == 200, "accepting events needs no ClickHouse"
        error = assert_error(await api.post(f"{PATH}/list", json={}), 503, "ServiceUnavailableError")
        assert "127.0.0.1" not in str(error)


async def test_a_role_serves_only_its_own_calls(lab: Lab) -> None:
    async with api_of(with_key(lab.settings), "collector") as api:
        assert (await api.post(PATH, json=EVENT)).status_code == 200
        assert (await api.get(f"{PATH}/x")).status_code in (404, 405)
    async with api_of(with_key(lab.settings), "reader") as api:
        assert (await api.post(PATH, json=EVENT)).status_code == 404
        assert (await api.post(f"{PATH}/list")).status_code == 200


async def test_request_ids_are_returned_and_logged(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tally.access")
    async with api_of(with_key(lab.settings)) as api:
        mine = await api.get("/v1/outcomes", headers={"X-Request-Id": "my-id_1"})
        assert mine.headers["x-request-id"] == "my-id_1"
        for odd in ("", "a b", "x" * 65, "a\x7f", "ü"):
            answer = await api.get("/v1/health", headers=[(b"X-Request-Id", odd.encode())])
            assert answer.headers["x-request-id"] != odd
            assert len(answer.headers["x-request-id"]) == 32
        await api.post(f"{PATH}/beacon?token=a-secret-token", json=EVENT)
        await api.get("/no%01where%E2%80%A8%0Aforged%20line")
    lines = [record.getMessage() for record in caplog.records if record.name == "tally.access"]
    assert lines[0].startswith("my-id_1 GET /v1/outcomes 200 ")
    assert lines[0].endswith(" root 'default'")
    assert not any("a-secret" in line or "\n" in line or "\u2028" in line for line in lines)
    assert KEY not in str(lines)


async def test_requests_in_flight_are_bounded(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    held, entered = asyncio.Event(), asyncio.Event()

    async def hold(*_args: Any, **_named: Any) -> Any:
        entered.set()
        await held.wait()
        raise Unavailable("enough")

    monkeypatch.setattr("readers.reader.read_outcomes", hold)
    async with api_of(with_key(lab.settings, http_in_flight=1)) as api:
        first = asyncio.create_task(api.get("/v1/outcomes"))
        await entered.wait()
        assert (await api.get("/v1/health")).status_code == 200, "who lives is not to be killed"
        error = assert_error(await api.get("/v1/outcomes"), 503, "ServiceUnavailableError")
        assert "TALLY_HTTP_IN_FLIGHT" in error["message"]
        held.set()
        assert (await first).status_code == 503
        monkeypatch.undo()
        assert (await api.get("/v1/outcomes")).status_code == 200


async def test_a_query_of_any_bytes_is_not_a_500(lab: Lab) -> None:
    async with served(with_key(lab.settings)) as url:
        for target in (b"/v1/health?\xff", b"/v1/health?%ff", b"/%ff", b"/v1/outcomes?user_id=%ff&user_id=%00"):
            reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
            writer.write(b"POST " + target + b" HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\n\r\n")
            assert (await reader.readline()).split()[1] in (b"400", b"401", b"404", b"405"), target
            writer.close()


async def test_only_listed_origins_may_call_from_a_browser(lab: Lab) -> None:
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    async with api_of(with_key(lab.settings, cors_origins=("https://app.example",))) as api:
        for origin, allowed in (("https://app.example", True), ("https://evil.example", False)):
            preflight = await api.options(PATH, headers=asks | {"Origin": origin})
            assert ("access-control-allow-origin" in preflight.headers) == allowed
            answer = await api.post(PATH, json=EVENT, headers={"Origin": origin})
            assert answer.headers.get("access-control-allow-origin") == (origin if allowed else None)
    async with api_of(with_key(lab.settings)) as api:
        answer = await api.post(PATH, json=EVENT, headers={"Origin": "https://app.example"})
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("wait=2", 2),
        ("WAIT = 3", 3),
        ('respond-async, wait="4"; foo', 4),
        ("wait=99999", None),
        ("wait=60", 10),
        ("wait=-1", None),
        ("wait=x", None),
        ("await=2", None),
        ("", None),
    ],
)
def test_the_prefer_header_sets_the_wait(header: str, seconds: float | None) -> None:
    request = Request({"type": "http", "headers": [(b"prefer", header.encode())]})
    assert wait_s(request, 10_000) == seconds


async def test_without_a_key_in_the_settings_no_default_key_is_accepted(lab: Lab) -> None:
    async with api_of(with_key(lab.settings, api_key=SecretStr(""))) as api:
        await until_keys_are_known(api)
        for key in ("tally-dev", "dev-key", "root", KEY, "''", "tk__"):
            answer = await api.post(PATH, json=EVENT, headers={"Authorization": f"Bearer {key}"})
            assert_error(answer, 401, "UnauthorizedError")


@pytest.mark.parametrize(
    ("listening", "chosen", "host", "status"),
    [
        ("127.0.0.1", "", "127.0.0.1:8080", 200),
        ("127.0.0.1", "", "localhost", 200),
        ("127.0.0.2", "", "127.0.0.2", 200),
        ("::1", "", "[::1]:8080", 200),
        ("127.0.0.1", "", "rebound.example", 400),
        ("127.0.0.1", "", "127.0.0.1.rebound.example:8080", 400),
        ("localhost", "", "localhost.rebound.example", 400),
        ("::1", "", "[::1", 400),
        ("127.0.0.1", "", "", 400),
        ("127.0.0.1", "api.example", "API.example:443", 200),
        ("127.0.0.1", "api.example", "127.0.0.1", 400),
        ("10.0.0.1", "", "any.example", 200),
        ("10.0.0.1", "api.example", "any.example", 400),
    ],
)
async def test_requests_for_another_host_are_refused(
    settings: Settings, listening: str, chosen: str, host: str, status: int
) -> None:
    """A page whose host name resolves to this machine is refused (DNS rebinding), and probes work with any address."""
    names = Settings(http_hosts=chosen).http_hosts
    app = app_of(with_key(settings, http_hosts=names), "reader", listening)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://t", headers={"Host": host}) as api:
        answer = await api.get("/metrics")
        assert answer.status_code == status
        if status == 400:
            assert "TALLY_HTTP_HOSTS" in assert_error(answer, 400, "BadRequestError", "unknown_host")["message"]
        assert (await api.get("/v1/health")).status_code == 200


@pytest.fixture
async def address(lab: Lab) -> AsyncIterator[str]:
    async with served(with_key(lab.settings)) as url:
        yield url


async def test_the_schema_documentation_and_metrics_are_served(address: str) -> None:
    async with httpx.AsyncClient(base_url=address, headers=BEARER) as api:
        schema = (await api.get("/openapi.json")).json()
        assert {f"{PATH}", f"{PATH}/batch", f"{PATH}/list", f"{PATH}/beacon", "/v1/outcomes", "/v1/ready"} <= set(
            schema["paths"]
        )
        created = schema["paths"][PATH]["post"]["requestBody"]["content"]["application/json"]
        assert (await api.post(PATH, json=created["example"])).status_code == 200
        assert (await api.get("/docs")).status_code == 200
        assert "tally_http_requests_total" in (await api.get("/metrics")).text
