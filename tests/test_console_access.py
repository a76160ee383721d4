"""Access to the console: sessions end with their key, pages are for their own origin, and no key is in a page."""

import re
from collections.abc import AsyncIterator

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from console.access import local_path
from console.navigation import SCREENS
from console.security import HEADERS
from console.sessions import COOKIE
from runtime.http.keys import SCOPES
from runtime.ports import free_port
from tests.console_lab import ORIGIN, console_client, sign_in
from tests.http_lab import BEARER, KEY, api_of, until_keys_are_known, with_key
from tests.lab import Lab
from tests.waiting import eventually_async


@pytest.fixture
async def api(lab: Lab) -> AsyncIterator[httpx.AsyncClient]:
    async with api_of(with_key(lab.settings)) as client:
        await until_keys_are_known(client)
        yield client


@pytest.fixture
async def browser(api: httpx.AsyncClient) -> AsyncIterator[httpx.AsyncClient]:
    async with console_client("http://t", api._transport) as client:
        yield client


async def test_a_key_opens_a_session_and_no_page_has_it(browser: httpx.AsyncClient) -> None:
    answer = await sign_in(browser, KEY, "/find?id=a")
    assert (answer.status_code, answer.headers["location"]) == (303, "/find?id=a")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert KEY not in cookie
    for screen in SCREENS:
        page = await browser.get(screen.path)
        assert page.status_code == 200, page.text
        assert KEY not in page.text
        assert f"<h1>{screen.title}" in page.text


async def test_a_wrong_key_opens_no_session(browser: httpx.AsyncClient) -> None:
    answer = await sign_in(browser, "tk_00000000_wrong")
    assert answer.status_code == 401
    assert "unknown or revoked" in answer.text
    assert COOKIE not in browser.cookies


@pytest.mark.parametrize("key", ["", "x" * 600, "schlüssel\u0000", "a b\nc"])
async def test_a_key_that_cannot_be_one_is_refused(browser: httpx.AsyncClient, key: str) -> None:
    answer = await sign_in(browser, key)
    assert answer.status_code in (401, 422)
    assert COOKIE not in browser.cookies


async def test_pages_and_panels_need_a_session(browser: httpx.AsyncClient) -> None:
    page = await browser.get("/find", params={"id": "a&b"})
    assert page.status_code == 303
    assert page.headers["location"] == "/sign-in?back=%2Ffind%3Fid%3Da%2526b"
    panel = await browser.get("/overview/refusals")
    assert (panel.status_code, panel.headers["x-sign-in"]) == (401, "/sign-in")


async def test_a_session_ends_with_its_key(api: httpx.AsyncClient, browser: httpx.AsyncClient) -> None:
    body = {"name": "viewer", "scopes": ["read"], "namespaces": ["default"]}
    made = (await api.post("/v1/keys", json=body)).json()

    async def is_signed_in() -> bool:
        return (await sign_in(browser, made["key"])).status_code == 303

    await eventually_async(is_signed_in)
    assert (await browser.get("/overview/refusals")).status_code == 200
    await api.delete(f"/v1/keys/{made['key_id']}")

    async def has_ended() -> bool:
        return (await browser.get("/overview/refusals")).status_code == 401

    await eventually_async(has_ended)
    assert COOKIE not in browser.cookies
    assert (await browser.get("/reports")).headers["location"].startswith("/sign-in")


async def test_replicas_with_the_same_secret_share_sessions(api: httpx.AsyncClient, browser: httpx.AsyncClient) -> None:
    await sign_in(browser, KEY)
    async with console_client("http://t", api._transport) as replica:
        replica.cookies = browser.cookies
        assert (await replica.get("/overview/refusals")).status_code == 200


async def test_consoles_on_one_host_keep_their_sessions_apart(browser: httpx.AsyncClient) -> None:
    """Browsers send a cookie to every port of a host."""
    await sign_in(browser, KEY)
    other = {"Host": "console.local:8191"}
    panel = await browser.get("/overview/refusals", headers=other)
    assert (panel.status_code, panel.headers["x-sign-in"]) == (401, "/sign-in"), "not `ended`: there was none"
    answer = await browser.post("/sign-in", data={"key": KEY}, headers=other)
    assert answer.headers["set-cookie"].startswith(f"{COOKIE}_8191=")
    await browser.post("/sign-out", headers=other)
    assert (await browser.get("/overview/refusals")).status_code == 200


async def test_a_page_of_a_foreign_namespace_leads_to_the_own_ones(browser: httpx.AsyncClient) -> None:
    await sign_in(browser, KEY)
    assert (await browser.get("/overview/traffic?ns=foreign")).status_code == 403
    menu = await browser.get("/account?ns=foreign")
    assert "foreign is no namespace of this key" in menu.text
    assert '<option value="default">' in menu.text


async def test_the_documentation_is_that_of_the_api(browser: httpx.AsyncClient) -> None:
    await sign_in(browser, KEY)
    assert '<a href="http://t/docs">API documentation</a>' in (await browser.get("/")).text


@pytest.mark.parametrize("cookie", ["", "x", "gAAAAA" + "A" * 100, "ü"])
async def test_a_forged_session_leads_to_the_sign_in(browser: httpx.AsyncClient, cookie: str) -> None:
    answer = await browser.get("/reports", headers={b"Cookie": f"{COOKIE}={cookie}".encode()})
    assert answer.headers["location"].startswith("/sign-in")


async def test_an_api_that_is_away_is_named_with_its_setting() -> None:
    async with console_client(f"http://127.0.0.1:{free_port()}") as browser:
        answer = await sign_in(browser, KEY)
        assert answer.status_code == 502
        assert "TALLY_CONSOLE_API" in answer.text
        assert (await browser.get("/ready")).status_code == 503
        assert (await browser.get("/health")).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "", "Origin": "http://evil"},
        {"Sec-Fetch-Site": "", "Origin": "null"},
        {"Sec-Fetch-Site": "", "Origin": "http://["},
    ],
)
async def test_another_site_changes_nothing(
    api: httpx.AsyncClient, browser: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    await sign_in(browser, KEY)
    form = {"name": "stolen", "scopes": "admin", "namespaces": "default"}
    answer = await browser.post("/keys/create", data=form, headers=headers)
    assert answer.status_code == 403
    assert (await api.get("/v1/keys")).json()["keys"] == []


async def test_every_response_has_the_policy(browser: httpx.AsyncClient) -> None:
    for path in ("/sign-in", "/nothing", "/health", "/overview/refusals", "/assets/0/x"):
        answer = await browser.get(path)
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    assert "unsafe" not in HEADERS["Content-Security-Policy"]


async def test_a_form_over_plain_http_names_its_origin(browser: httpx.AsyncClient) -> None:
    """Browsers send no Sec-Fetch-Site there, and `Origin: null` where pages forbid every referrer."""
    assert (await browser.get("/sign-in")).headers["referrer-policy"] == "same-origin"
    headers = {"Sec-Fetch-Site": "", "Origin": ORIGIN}
    assert (await browser.post("/sign-in", data={"key": KEY}, headers=headers)).status_code == 303


async def test_forms_are_bounded(browser: httpx.AsyncClient) -> None:
    await sign_in(browser, KEY)
    answer = await browser.post("/keys/create", content=b"x" * (1024 * 1024 + 1))
    assert (answer.status_code, "TALLY_CONSOLE_FORM_BYTES" in answer.text) == (413, True)
    without_length = await browser.post("/keys/create", content=_chunks())
    assert without_length.status_code == 411


async def _chunks() -> AsyncIterator[bytes]:
    yield b"name=x"


@given(
    st.text()
    | st.sampled_from(
        ["//evil", "///evil", "//[", "/\\evil", "http://evil/", "/a?b=c", "\t//evil", "/%2f/evil", "javascript:x"]
    )
)
def test_a_viewer_is_never_led_to_another_site(text: str) -> None:
    path = local_path(text)
    assert path.startswith("/")
    assert not re.match(r"[/\\\s]{2}", path)


async def test_a_new_key_is_shown_once_and_can_be_revoked(api: httpx.AsyncClient, browser: httpx.AsyncClient) -> None:
    await sign_in(browser, KEY)
    form = {"name": "<b>shop</b>", "scopes": ["read", "write"], "namespaces": "default, shop", "rate_per_s": "9"}
    page = await browser.post("/keys/create", data=form)
    key = re.search(r"tk_[0-9a-f]{8}_[\w-]{43}", page.text)
    assert key is not None
    assert page.headers["cache-control"] == "no-store"
    assert "&lt;b&gt;shop&lt;/b&gt;" in page.text
    listed = await browser.get("/keys/list")
    assert key[0] not in listed.text
    (stored,) = (await api.get("/v1/keys")).json()["keys"]
    assert (stored["scopes"], stored["namespaces"], stored["rate_per_s"]) == (["write", "read"], ["default", "shop"], 9)
    asked = await browser.post("/keys/revoke", data={"key_id": stored["key_id"], "name": "shop"})
    assert "Revoke this key?" in asked.text
    revoked = await browser.post("/keys/revoke", data={"key_id": stored["key_id"], "name": "shop", "confirmed": "yes"})
    assert "Key revoked" in revoked.text
    (stored,) = (await api.get("/v1/keys")).json()["keys"]
    assert stored["revoked_at"]


async def test_a_form_with_a_fault_keeps_what_was_entered(browser: httpx.AsyncClient) -> None:
    await sign_in(browser, KEY)
    page = await browser.post("/keys/create", data={"name": "shop", "namespaces": "a,,b\u0001", "rate_per_s": "many"})
    assert page.status_code == 422
    assert 'value="shop"' in page.text
    assert 'role="alert"' in page.text


async def test_a_key_without_the_scope_sees_why(api: httpx.AsyncClient, browser: httpx.AsyncClient) -> None:
    body = {"name": "writer", "scopes": ["write"], "namespaces": ["default"]}
    made = (await api.post("/v1/keys", json=body, headers=BEARER)).json()

    async def is_signed_in() -> bool:
        return (await sign_in(browser, made["key"])).status_code == 303

    await eventually_async(is_signed_in)
    panel = await browser.get("/overview/refusals")
    assert panel.status_code == 403
    assert "Your key does not allow this" in panel.text
    assert "scope &#39;read&#39;" in panel.text
    keys = await browser.get("/keys")
    assert "needs the scope <code>admin</code>" in keys.text
    assert "write" in SCOPES
