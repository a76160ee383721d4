"""The console and hostile input: forms, addresses and answers of the API that are out of the ordinary."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from starlette.types import Message, Receive

from console import security
from console.app import create_app
from console.client import ApiClient, ApiProblem
from console.ranges import ChosenRange
from console.screens.dead_letters import read_patch
from console.settings import ConsoleSettings, ConsoleSettingsError
from tests.console_lab import console_client, sign_in

OWN_KEY = {
    "key_id": "root",
    "name": None,
    "scopes": ["read", "write", "admin"],
    "namespaces": ["default"],
    "namespace": "default",
    "rate_per_s": 0,
}
REFUSED = {"error": {"message": "nothing there"}}


class ScriptedApi:
    """API that knows one key, answers everything else as scripted, and keeps the requests."""

    def __init__(self) -> None:
        self.requests: list[httpx.Request] = []
        self.answer: Callable[[], httpx.Response] = lambda: httpx.Response(404, json=REFUSED)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        """Answer a request."""
        if request.url.path == "/v1/keys/self":
            return httpx.Response(200, json=OWN_KEY)
        self.requests.append(request)
        return self.answer()

    @property
    def paths(self) -> list[str]:
        """Paths as they were sent."""
        return [each.url.raw_path.decode().partition("?")[0] for each in self.requests]


@pytest.fixture
def api() -> ScriptedApi:
    return ScriptedApi()


@pytest.fixture
async def browser(api: ScriptedApi) -> AsyncIterator[httpx.AsyncClient]:
    async with console_client("http://api", httpx.MockTransport(api)) as client:
        await sign_in(client, "tk_00000000_x")
        yield client


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": NaN}', "NaN"),
        ('{"a": 1e999}', "larger than any double"),
        ('{"a": "\\ud800"}', "surrogate"),
        ('{"\\ud800": 1}', "surrogate"),
        ('{"a":' * 50_000, "too deeply"),
    ],
)
async def test_a_patch_that_cannot_be_sent_is_named(
    api: ScriptedApi, browser: httpx.AsyncClient, text: str, words: str
) -> None:
    patch, problem = read_patch(text)
    assert patch is None
    assert words in problem
    answer = await browser.post("/dead-letters/0/1/check", data={"patch": text})
    assert (answer.status_code, words in answer.text) == (200, True)
    form = {"reason": "wrong_type", "patch": text, "action": "replay"}
    assert (await browser.post("/dead-letters/replay", data=form)).status_code == 200
    assert api.requests == []


@pytest.mark.parametrize(
    "path",
    [
        "/learning/propensities?retriever=x&since=0001-01-01T00:00%2B14:00",
        "/learning/propensities?retriever=x&until=9999-12-31T23:59-14:00",
    ],
)
async def test_a_time_beyond_the_calendar_is_named(browser: httpx.AsyncClient, path: str) -> None:
    answer = await browser.get(path)
    assert (answer.status_code, "is not a time" in answer.text) == (422, True)


def test_a_range_begins_in_the_calendar() -> None:
    first = "0001-01-01T00:00:00.000Z"
    assert ChosenRange.of({"until": "0001-01-01"}).as_query() == {"since": first, "until": first}
    assert ChosenRange.of({"since": "0001-01-02"}).before()["since"] == first


async def test_every_depth_of_a_patch_is_answered(browser: httpx.AsyncClient) -> None:
    for depth in range(800, 1_000, 20):
        patch = '{"a":' * depth + "1" + "}" * depth
        assert (await browser.post("/dead-letters/0/1/check", data={"patch": patch})).status_code in (200, 404, 422)


async def test_an_offset_without_end_is_no_page(browser: httpx.AsyncClient) -> None:
    for path in ("/dead-letters/0/" + "9" * 5_000, "/dead-letters/" + "9" * 20 + "/1"):
        assert (await browser.get(path)).status_code == 404


async def test_names_are_one_segment_of_an_address_of_the_api(api: ScriptedApi, browser: httpx.AsyncClient) -> None:
    for name in ("..", ".", "a/b?c#d"):
        await browser.get("/learning/weights", params={"retriever": name})
        await browser.get("/find/event", params={"id": name})
        await browser.post("/keys/revoke", data={"key_id": name, "confirmed": "yes"})
    sent = {"..": "%2E%2E", ".": "%2E", "a/b?c#d": "a%2Fb%3Fc%23d"}
    assert api.paths == [
        path
        for name in sent.values()
        for path in (f"/v1/retrievers/{name}/weights/history", f"/v1/events/{name}", f"/v1/keys/{name}")
    ]


async def test_a_selection_is_taken_as_it_is(api: ScriptedApi, browser: httpx.AsyncClient) -> None:
    """Without its blanks a field would name other letters, or all of them."""
    for field in (" ", " shelf"):
        await browser.post("/dead-letters/replay", data={"reason": "unknown_field", "field": field})
        assert json.loads(api.requests[-1].content)["field"] == field
    answer = await browser.post("/dead-letters/replay", data={"reason": "unknown_field", "field": "x" * 3_000})
    assert json.loads(api.requests[-1].content)["field"] == "x" * 3_000
    assert answer.status_code == 404


@pytest.mark.parametrize(
    "answer",
    [
        lambda: httpx.Response(200, content=b"[" * 100_000),
        lambda: httpx.Response(200, content=b"\xff\xfe"),
        lambda: httpx.Response(200, content=b"<html>"),
        lambda: httpx.Response(307, headers={"Location": "http://evil/"}),
        lambda: httpx.Response(304),
        lambda: httpx.Response(500, json=[1]),
        lambda: httpx.Response(503, json={"error": {"message": None, "code": {}}}),
        lambda: httpx.Response(200, content=b"x", headers={"Content-Encoding": "gzip"}),
    ],
)
async def test_an_answer_of_another_program_is_a_problem(
    api: ScriptedApi, browser: httpx.AsyncClient, answer: Callable[[], httpx.Response]
) -> None:
    api.answer = answer
    for path in ("/overview/pipeline", "/live/events", "/reports"):
        assert (await browser.get(path)).status_code in (500, 502, 503)
        assert "The console failed" not in (await browser.get(path)).text


class _SlowBody(httpx.AsyncByteStream):
    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            yield b" "
            await asyncio.sleep(0)


async def test_an_answer_that_never_ends_is_given_up() -> None:
    settings = ConsoleSettings(api="http://api", api_timeout_ms=100)
    transport = httpx.MockTransport(lambda _request: httpx.Response(200, stream=_SlowBody()))
    client = ApiClient(settings, transport)
    with pytest.raises(ApiProblem, match=r"TALLY_CONSOLE_API_TIMEOUT_MS|TALLY_CONSOLE_API_ANSWER_BYTES"):
        await client.call("GET", "/v1/health", key=None)
    await client.close()


@pytest.mark.parametrize("key", ["schlüssel", "a\r\nX-Namespace: b", "a\u0000b"])
async def test_a_key_with_other_characters_is_not_sent(api: ScriptedApi, browser: httpx.AsyncClient, key: str) -> None:
    answer = await sign_in(browser, key)
    assert (answer.status_code, "key has characters" in answer.text) == (422, True)


@pytest.mark.parametrize(
    "settings",
    [
        {"api": "http://user:secret@api"},
        {"api": "http://api:99999"},
        {"api": "http://api?x=1"},
        {"api": "http://api", "tls_ca_file": "/does/not/exist"},
    ],
)
def test_settings_that_cannot_work_are_named(settings: dict[str, Any]) -> None:
    with pytest.raises(ConsoleSettingsError, match=r"TALLY_CONSOLE_(API|TLS_CA_FILE): ") as caught:
        ConsoleSettings.load(**settings)
    assert "secret" not in str(caught.value)


async def _answers_to_a_form(api: ScriptedApi, receive: Receive) -> list[Message]:
    answers: list[Message] = []

    async def send(message: Message) -> None:
        answers.append(message)

    headers = [(b"content-length", b"5"), (b"content-type", b"application/x-www-form-urlencoded")]
    scope = {"type": "http", "method": "POST", "path": "/sign-in", "query_string": b"", "headers": headers}
    app = create_app(ConsoleSettings(api="http://api"), httpx.MockTransport(api))
    await app(scope, receive, send)
    return answers


async def test_a_form_that_does_not_arrive_is_given_up(api: ScriptedApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(security, "BODY_TIMEOUT_S", 0.0)

    async def never() -> Message:
        forever: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        return await forever

    assert (await _answers_to_a_form(api, never))[0]["status"] == 408


async def test_a_viewer_who_leaves_is_no_failure(api: ScriptedApi, caplog: pytest.LogCaptureFixture) -> None:
    async def gone() -> Message:
        return {"type": "http.disconnect"}

    assert await _answers_to_a_form(api, gone) == []
    assert caplog.records == []


async def test_forms_are_of_the_kind_that_pages_send(browser: httpx.AsyncClient) -> None:
    part = b'--x\r\nContent-Disposition: form-data; name="key"\r\n\r\nabc\r\n--x--\r\n'
    for kind in ("multipart/form-data; boundary=x; charset=undefined", "application/json", ""):
        answer = await browser.post("/sign-in", content=part, headers={"Content-Type": kind})
        assert answer.status_code == 415
    assert (await browser.post("/sign-out")).status_code == 303


async def test_the_documentation_is_at_the_address_of_the_api(api: ScriptedApi, browser: httpx.AsyncClient) -> None:
    counts = dict.fromkeys(("stored", "duplicate", "rejected", "deleted", "moved"), 0)
    traffic = {"totals": counts, "points": [], "step_ms": 60_000, "last_event": []}
    api.answer = lambda: httpx.Response(200, json=traffic)
    assert 'href="http://api/docs"' in (await browser.get("/overview/traffic")).text


async def test_a_long_replay_continues_after_letters_that_stay_rejected(
    api: ScriptedApi, browser: httpx.AsyncClient
) -> None:
    result: dict[str, Any] = {"letters": 2, "replayed": 1, "would_pass": None, "still_rejected": 1, "settled": 0}
    result |= {"missing": 0, "why": {}, "more": True, "next_cursor": "1/2/3", "replayed_as": []}
    api.answer = lambda: httpx.Response(200, json=result)
    first = await browser.post("/dead-letters/replay", data={"reason": "wrong_type", "action": "replay"})
    assert 'name="cursor" value="1/2/3"' in first.text
    form = {"reason": "wrong_type", "action": "replay"}
    for cursor in ({"cursor": "1/2/3"}, {}):
        await browser.post("/dead-letters/replay", data=form | cursor)
        assert json.loads(api.requests[-1].content).get("cursor") == cursor.get("cursor")
