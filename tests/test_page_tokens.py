"""Page tokens and pages of other origins: one spelling of an origin, and a bound on a token's life."""

import base64
import json
import time

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from runtime.errors import SettingsError
from runtime.http.keys import MAX_TOKEN_LIFE_S, ROOT, TOKEN_CLOCK_SKEW_S, PageToken, hash_of
from runtime.http.origins import serialized_origin
from runtime.settings import Settings
from tally.cli.keys import app as keys
from tests.http_lab import EVENT, KEY, PATH, api_of, assert_error, with_key
from tests.lab import Lab

SPELLINGS = [
    ("https://shop.example", "HTTPS://Shop.Example:443/"),
    ("http://shop.example", "http://shop.example:80"),
    ("http://shop.example:443", "http://SHOP.example:443/"),
    ("https://shop.example", "https://shop.example."),
    ("https://xn--mnchen-3ya.example", "https://MÜNCHEN.example"),
    ("https://xn--mnchen-3ya.example", "https://mu\u0308nchen.example"),
    ("https://xn--mnchen-3ya.example", "https://XN--mnchen-3ya.example:443"),
    ("https://xn--fa-hia.example", "https://faß.example"),
    ("https://xn--i-7iq.example", "https://i❤.example"),
    ("https://xn--r8jz45g.jp", "https://例え。jp"),
    ("http://[::1]:8080", "http://[0:0:0::1]:8080/"),
    ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
    ("http://my_host", "http://My_Host/"),
    ("capacitor://localhost", "capacitor://localhost"),
    ("chrome-extension://abcdef", "chrome-extension://abcdef/"),
]
INVALID_ORIGINS = [
    *(
        "",
        "null",
        "*",
        "shop.example",
        "//shop.example",
        "https:",
        "https://",
        "https:shop.example",
        "file:///x",
        "ftp://a",
    ),
    *(
        "https://a/path",
        "https://a?q",
        "https://a?",
        "https://a#f",
        "https://u@a",
        "https://u:p@a",
        "https://a:x",
        "https://a:99999",
    ),
    *(
        "https://a b",
        "https://a\tb",
        "https://a\n",
        " https://a",
        "https://a..b",
        "https://.a",
        "https://-a",
        "https://a,b",
        "https://*.a",
    ),
    *(
        "https://[::1",
        "https://[::1%25eth0]",
        "https://[x]",
        "https://a\\b",
        "https://a%2eb",
        "https://" + "a" * 600,
        "https://a\0",
    ),
    *("https://" + "a" * 64 + ".example", "https://xn--\ud800", "javascript://a"),
]


async def sent(api: httpx.AsyncClient, token: str, origin: str) -> int:
    """Status of a page's request."""
    answer = await api.post(f"{PATH}/beacon", params={"token": token}, json=EVENT, headers={"Origin": origin})
    return answer.status_code


@pytest.mark.parametrize(("browsers", "spelled"), SPELLINGS)
def test_an_origin_has_one_spelling(browsers: str, spelled: str) -> None:
    assert serialized_origin(spelled) == serialized_origin(browsers) == browsers


@pytest.mark.parametrize("text", INVALID_ORIGINS)
def test_an_invalid_origin_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="origin"):
        serialized_origin(text)


@given(st.text(max_size=40) | st.text(max_size=20).map("https://{}".format))
def test_serializing_an_origin_is_idempotent_or_a_clear_error(text: str) -> None:
    """Law: a serialized origin serializes to itself, and is plain ASCII."""
    try:
        found = serialized_origin(text)
    except ValueError as error:
        assert "origin" in str(error)
    else:
        assert serialized_origin(found) == found
        assert found.isascii()


async def test_a_token_is_valid_for_any_spelling_of_its_origin(shared_api: httpx.AsyncClient) -> None:
    for browsers, spelled in SPELLINGS:
        answer = await shared_api.post(f"{PATH}/beacon-token", json={"origin": spelled})
        assert answer.status_code == 200, answer.text
        assert await sent(shared_api, answer.json()["token"], browsers) == 204, spelled
        assert await sent(shared_api, answer.json()["token"], "https://evil.example") == 403
        now_s = int(time.time())
        by_itself = PageToken(ROOT, "default", spelled, now_s, now_s + 60).signed(hash_of(KEY))
        assert await sent(shared_api, by_itself, browsers) == 204, "also one that a backend has signed"


async def test_no_token_is_issued_for_an_invalid_origin(shared_api: httpx.AsyncClient) -> None:
    for text in INVALID_ORIGINS:
        if "\ud800" not in text:
            error = assert_error(
                await shared_api.post(f"{PATH}/beacon-token", json={"origin": text}), 422, "ValidationError"
            )
            (problem,) = error["details"]["validation_errors"]
            assert (problem["type"], problem["location"]) == ("bad_origin", ["body", "origin"])
    nowhere = PageToken(ROOT, "default", "null", int(time.time()), int(time.time()) + 60).signed(hash_of(KEY))
    for origin in ("null", "", "https://a/b"):
        assert await sent(shared_api, nowhere, origin) == 403


def test_the_command_checks_origin_and_namespace() -> None:
    for arguments in (["null"], ["https://a/b"], ["https://a.example", "--namespace", "a,b"]):
        ended = CliRunner().invoke(keys, ["token", *arguments, "--key", "tk_1_x"])
        assert ended.exit_code == 2, ended.output
    ended = CliRunner().invoke(keys, ["token", "HTTPS://Ä.example:443/", "--key", "tk_1_x", "--json"])
    read = PageToken.read(ended.output.split('"')[3])
    assert read is not None
    assert read[0].origin == "https://xn--4ca.example"


@pytest.mark.parametrize(
    ("begins_s", "lasts_s", "status"),
    [
        (0, 60, 204),
        (0, MAX_TOKEN_LIFE_S, 204),
        (0, MAX_TOKEN_LIFE_S + 1, 401),
        (0, 400 * 86_400, 401),
        (-300 * 86_400, 301 * 86_400, 401),
        (-60, 30, 401),
        (TOKEN_CLOCK_SKEW_S - 5, 600, 204),
        (TOKEN_CLOCK_SKEW_S + 30, 600, 401),
        (10**15, 600, 401),
        (0, 10**400, 401),
    ],
)
async def test_the_lifetime_of_a_token_is_bounded(
    shared_api: httpx.AsyncClient, begins_s: int, lasts_s: int, status: int
) -> None:
    begins_s += int(time.time())
    token = PageToken(ROOT, "default", "https://a.example", begins_s, begins_s + lasts_s).signed(hash_of(KEY))
    assert await sent(shared_api, token, "https://a.example") == status


@pytest.mark.parametrize("times", [[60], [0, 60, 60], [0, 60.0], [0, "60"], [False, 60], [None, 60]])
def test_a_token_must_have_two_integer_times(times: list[object]) -> None:
    claims = json.dumps(["k", "default", "https://a.example", *times]).encode()
    assert PageToken.read(f"tb_{base64.urlsafe_b64encode(claims).rstrip(b'=').decode()}.x") is None


async def test_a_listed_origin_may_call_in_any_spelling(lab: Lab) -> None:
    spelled = Settings(cors_origins="HTTPS://App.Example:443/ , https://münchen.example.")
    assert spelled.cors_origins == ("https://app.example", "https://xn--mnchen-3ya.example")
    async with api_of(with_key(lab.settings, cors_origins=spelled.cors_origins)) as api:
        for origin, allowed in (
            ("https://app.example", True),
            ("https://xn--mnchen-3ya.example", True),
            ("https://app.example.", True),
            ("https://app.example.evil", False),
            ("http://app.example", False),
            ("null", False),
        ):
            answer = await api.get("/v1/health", headers={"Origin": origin})
            assert answer.headers.get("access-control-allow-origin") == (origin if allowed else None), origin
    async with api_of(with_key(lab.settings, cors_origins=Settings(cors_origins="*").cors_origins)) as api:
        assert "access-control-allow-origin" in (await api.get("/v1/health", headers={"Origin": "https://x"})).headers


def test_an_invalid_origin_in_a_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("app.example", "https://app.example/path", "null", "https://*.example"):
        monkeypatch.setenv("TALLY_CORS_ORIGINS", f"https://ok.example,{text}")
        with pytest.raises(SettingsError, match=r"TALLY_CORS_ORIGINS.*is not an origin"):
            Settings.load()
