"""Hot routes: create, batch, beacon and get by id answer as the framework's router did before it was bypassed."""

import asyncio
from typing import Any, NamedTuple

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from readers.module import ReaderModule
from runtime.http.answer import Answer
from runtime.http.keys import ROOT, PageToken, hash_of
from runtime.http.server import ApiServer
from runtime.ports import free_port, listening_sockets
from runtime.settings import Settings
from tally.serve import app_of
from tests.http_lab import EVENT, KEY, PATH, assert_error, served, with_key
from tests.lab import Lab
from tests.waiting import eventually_async

Pairs = tuple[tuple[str, bytes], ...]

BEARER: Pairs = (("Authorization", b"Bearer " + KEY.encode()),)
ORIGIN: Pairs = (("Origin", b"https://a.example"),)
UNKNOWN = f"/int_{'0' * 32}"
NO_KEY = "send your API key as `Authorization: Bearer <key>` (`tally keys create` makes one)"
NO_TOKEN = "send the page token as ?token="  # noqa: S105  (an error's message)
SHORT = ("string_too_short", "String should have at least 1 character")
LONG = ("string_too_long", "String should have at most 500 characters")
PATTERN = ("string_pattern_mismatch", "String should match pattern '^[!-~]+$'")
NO_BOOL = ("bool_parsing", "Input should be a valid boolean, unable to interpret input")
KEY_PLACE, FLAG_PLACE, TOKEN_PLACE = ("header", "idempotency-key"), ("query", "deduplicate"), ("query", "token")


class Expected(NamedTuple):
    """Status of an answer, the message of an error, and its problems: type, message and location."""

    status: int
    message: str = ""
    problems: tuple[tuple[tuple[str, str], tuple[str, str]], ...] = ()


OK = Expected(200)


def invalid(*problems: tuple[tuple[str, str], tuple[str, str]]) -> Expected:
    """The answer to invalid parameters."""
    (_, message), place = problems[0]
    more = f" (and {len(problems) - 1} more errors)" if len(problems) > 1 else ""
    return Expected(422, f"{'.'.join(place)}: {message}{more}", problems)


def keys(*values: bytes) -> Pairs:
    """Headers of a request with idempotency keys."""
    return (*BEARER, *(("Idempotency-Key", value) for value in values))


KEYS: list[tuple[Pairs, Expected]] = [
    (keys(), OK),
    (keys(b"a"), OK),
    (keys(b"!~"), OK),
    (keys(b"x" * 500), OK),
    (keys(b"x" * 501), invalid((LONG, KEY_PLACE))),
    (keys(b"x" * 600 + b" "), invalid((LONG, KEY_PLACE))),
    (keys(b""), invalid((SHORT, KEY_PLACE))),
    (keys(b" "), invalid((PATTERN, KEY_PLACE))),
    (keys(b"a b"), invalid((PATTERN, KEY_PLACE))),
    (keys(b"a\tb"), invalid((PATTERN, KEY_PLACE))),
    (keys(b"a\n"), invalid((PATTERN, KEY_PLACE))),
    (keys(b"\x7f"), invalid((PATTERN, KEY_PLACE))),
    (keys("é".encode()), invalid((PATTERN, KEY_PLACE))),
    (keys(b"a", b""), OK),
    (keys(b"", b"a"), invalid((SHORT, KEY_PLACE))),
    ((("Idempotency-Key", b""),), Expected(401, NO_KEY)),
]
FLAGS: list[tuple[str, Expected]] = [
    *((f"deduplicate={text}", OK) for text in ("true", "FALSE", "1", "0", "yes", "n", "on", "off", "t", "f")),
    *(
        (f"deduplicate={text}", invalid((NO_BOOL, FLAG_PLACE)))
        for text in ("", "2", "maybe", "%20true", "true%00", "%ff", "null", "0.0")
    ),
    ("deduplicate", invalid((NO_BOOL, FLAG_PLACE))),
    ("dedup%6cicate=x", invalid((NO_BOOL, FLAG_PLACE))),
    ("deduplicate=true&deduplicate=x", invalid((NO_BOOL, FLAG_PLACE))),
    ("deduplicate=x&deduplicate=false", OK),
    ("Deduplicate=x", OK),
    ("a;deduplicate=x", OK),
    ("+deduplicate=x", OK),
]
CALLERS: list[tuple[Pairs, Expected]] = [
    ((), Expected(401, NO_KEY)),
    ((("Authorization", b"bearer  " + KEY.encode() + b" "),), OK),
    ((("Authorization", b"Basic x"), *BEARER), Expected(401, NO_KEY)),
    ((*BEARER, ("Authorization", b"Basic x")), OK),
    ((*BEARER, ("X-Namespace", b"shop"), ("X-Namespace", b"nowhere")), OK),
    ((*BEARER, ("X-Namespace", b"nowhere"), ("X-Namespace", b"shop")), Expected(403, "the key is not bound to")),
    ((*BEARER, ("X-Namespace", b"")), Expected(403, "the key is not bound to this namespace")),
]
TOO_LONG_TOKEN = invalid((("string_too_long", "String should have at most 2048 characters"), TOKEN_PLACE))
MISSING_TOKEN = invalid((("missing", "Field required"), TOKEN_PLACE))
TOKENS: list[tuple[str, Pairs, Expected]] = [
    ("?token=TOKEN", ORIGIN, Expected(204)),
    ("?token=x&token=TOKEN", ORIGIN, Expected(204)),
    ("?token=TOKEN&token=x", ORIGIN, Expected(401, NO_TOKEN)),
    ("", ORIGIN, MISSING_TOKEN),
    ("?Token=TOKEN", ORIGIN, MISSING_TOKEN),
    ("?token", ORIGIN, Expected(401, NO_TOKEN)),
    ("?token=%ff", ORIGIN, Expected(401, NO_TOKEN)),
    (f"?token={'x' * 2_048}", ORIGIN, Expected(401, NO_TOKEN)),
    (f"?token={'x' * 2_049}", ORIGIN, TOO_LONG_TOKEN),
    (f"?token={'%C3%A9' * 2_049}", ORIGIN, TOO_LONG_TOKEN),
    ("?token=TOKEN", (), Expected(403, "the token is for pages of another origin")),
    (
        "?token=TOKEN",
        (("Origin", b"https://b.example"), *ORIGIN),
        Expected(403, "the token is for pages of another origin"),
    ),
]
NOT_FOUND, NO_METHOD = Expected(404, "no endpoint has this path"), Expected(405, "this path does not have the method")
PATHS: list[tuple[str, str, Expected]] = [
    ("GET", "/x", Expected(404, "no interaction 'x'")),
    ("GET", f"/{'x' * 300}", Expected(404, f"no interaction '{'x' * 64}'")),
    ("GET", f"{UNKNOWN}?a=b", Expected(404, "no interaction 'int_")),
    ("GET", "/batch", Expected(404, "no interaction 'batch'")),
    ("GET", "/a%0A", Expected(404, "no interaction 'a\\n'")),
    ("GET", "/%ff", Expected(404, "no interaction")),
    ("GET", "/", NOT_FOUND),
    ("GET", "//", NOT_FOUND),
    ("GET", "/a%2Fb", NOT_FOUND),
    ("GET", "/a/b", NOT_FOUND),
    ("GET", "", NO_METHOD),
    ("HEAD", "", NO_METHOD),
    ("PUT", "", NO_METHOD),
    ("PUT", UNKNOWN, NO_METHOD),
    ("POST", UNKNOWN, NO_METHOD),
    ("POST", "/", NOT_FOUND),
    ("POST", "/batch/", NOT_FOUND),
    ("DELETE", "/batch", Expected(404, "no interaction 'batch'")),
]


async def is_answered(api: httpx.AsyncClient, method: str, path: str, headers: Pairs, expected: Expected) -> None:
    """Make a request without the client's own key, and compare its answer."""
    token = PageToken.until(ROOT, "default", "https://a.example", 60).signed(hash_of(KEY))
    raw = [(name.encode(), value) for name, value in headers]
    body: Any = {"interactions": [EVENT]} if path.startswith("/batch") else EVENT
    request = httpx.Request(
        method, f"http://t{PATH}{path.replace('TOKEN', token)}", headers=raw, json=body if method == "POST" else None
    )
    answer = await api.send(request)
    assert answer.status_code == expected.status, answer.text
    if method == "HEAD" or not expected.message:
        return
    kinds = {401: "UnauthorizedError", 403: "ForbiddenError", 404: "NotFoundError", 405: "MethodNotAllowedError"}
    code = "unknown" if expected.message.startswith("no interaction") else None
    error = assert_error(answer, expected.status, kinds.get(expected.status, "ValidationError"), code)
    assert error["message"].startswith(expected.message)
    found = error["details"].get("validation_errors", [])
    assert found == [
        {"type": kind, "location": list(place), "message": message} for (kind, message), place in expected.problems
    ]


@pytest.mark.parametrize("path", ["", "/batch"])
@pytest.mark.parametrize(("headers", "expected"), KEYS)
async def test_idempotency_keys(shared_api: httpx.AsyncClient, path: str, headers: Pairs, expected: Expected) -> None:
    await is_answered(shared_api, "POST", path, headers, expected)


@pytest.mark.parametrize(("query", "expected"), FLAGS)
async def test_deduplicate_is_a_boolean(shared_api: httpx.AsyncClient, query: str, expected: Expected) -> None:
    await is_answered(shared_api, "POST", f"/batch?{query}", BEARER, expected)


async def test_all_invalid_parameters_are_named(shared_api: httpx.AsyncClient) -> None:
    both = invalid((NO_BOOL, FLAG_PLACE), (SHORT, KEY_PLACE))
    await is_answered(shared_api, "POST", "/batch?deduplicate=x", keys(b""), both)


@pytest.mark.parametrize("path", ["", "/batch"])
@pytest.mark.parametrize(("headers", "expected"), CALLERS)
async def test_callers(shared_api: httpx.AsyncClient, path: str, headers: Pairs, expected: Expected) -> None:
    await is_answered(shared_api, "POST", path, headers, expected)


@pytest.mark.parametrize(("query", "headers", "expected"), TOKENS)
async def test_page_tokens(shared_api: httpx.AsyncClient, query: str, headers: Pairs, expected: Expected) -> None:
    await is_answered(shared_api, "POST", f"/beacon{query}", headers, expected)


@pytest.mark.parametrize(("method", "path", "expected"), PATHS)
async def test_methods_and_paths(shared_api: httpx.AsyncClient, method: str, path: str, expected: Expected) -> None:
    await is_answered(shared_api, method, path, BEARER, expected)


async def test_hot_routes_are_counted_under_their_template(shared_api: httpx.AsyncClient) -> None:
    await shared_api.get(f"{PATH}{UNKNOWN}")
    counted = (await shared_api.get("/metrics")).text
    assert f'tally_http_requests_total{{method="GET",route="{PATH}/{{interaction_id}}",status="404"}}' in counted


async def test_a_body_after_an_upgrade_header_times_out(lab: Lab) -> None:
    """The parser takes a request for an upgrade as complete at its head, although its body is still to come."""
    async with served(with_key(lab.settings, http_body_timeout_ms=200)) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        lines = (
            f"POST {PATH} HTTP/1.1",
            "Host: t",
            f"Authorization: Bearer {KEY}",
            "Connection: upgrade",
            "Upgrade: x",
            "Content-Length: 9",
        )
        writer.write("\r\n".join([*lines, "", "{"]).encode())
        assert b" 408 " in await reader.readline()
        writer.close()


async def test_a_header_cannot_hold_a_line_break(settings: Settings) -> None:
    """A response with one is a 500 without it, whichever code made it."""

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await Answer.of(200, b"{}", {"X-Made-Up": "a\r\nSet-Cookie: b"}).send(send)

    server = ApiServer(app, settings)
    port = free_port()
    with listening_sockets("127.0.0.1", port) as sockets:
        serving = asyncio.create_task(server.serve(sockets))
        await eventually_async(lambda: _is(server.started))
        async with httpx.AsyncClient() as client:
            answer = await client.get(f"http://127.0.0.1:{port}/")
        server.stop()
        await serving
    assert answer.status_code == 500
    assert "set-cookie" not in answer.headers


async def _is(value: bool) -> bool:
    return value


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_an_unexpected_error_is_a_500_with_the_request_id(settings: Settings, method: str) -> None:
    """Before its start an application has no reader, for a hot route and another one."""
    assert not hasattr(ReaderModule(), "_reader")
    transport = httpx.ASGITransport(app_of(with_key(settings), "reader"), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://t") as api:
        headers = {"Authorization": f"Bearer {KEY}", "X-Request-Id": "mine"}
        answer = await api.request(method, f"{PATH}{UNKNOWN}", headers=headers)
    assert "mine" in assert_error(answer, 500, "InternalServerError")["message"]
