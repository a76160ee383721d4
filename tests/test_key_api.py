"""API keys over HTTP: a key grants and reaches no more than it has itself; and the start page of the API."""

import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from runtime.http.key_store import KeyStore
from runtime.http.keys import SCOPES, Scope
from runtime.settings import Settings
from tests.http_lab import BEARER, EVENT, PATH, api_of, assert_error, until_keys_are_known, with_key
from tests.lab import Lab
from tests.waiting import eventually_async

KEYS = "/v1/keys"
NEW = {"name": "shop-backend", "scopes": ["write", "read"], "namespaces": ["shop"]}
Header = dict[str, str]


@pytest.fixture
async def api(lab: Lab) -> AsyncIterator[httpx.AsyncClient]:
    async with api_of(with_key(lab.settings)) as client:
        await until_keys_are_known(client)
        yield client


def bearer(key: str) -> Header:
    return {"Authorization": f"Bearer {key}"}


async def until_valid(api: httpx.AsyncClient, key: str) -> Header:
    """Wait until a key is known, and return its header."""

    async def is_valid() -> bool:
        return (await api.get(f"{KEYS}/self", headers=bearer(key))).status_code == 200

    await eventually_async(is_valid)
    return bearer(key)


async def created(api: httpx.AsyncClient, by: Header = BEARER, **changes: Any) -> dict[str, Any]:
    answer = await api.post(KEYS, json=NEW | changes, headers=by)
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def tenant_admin(api: httpx.AsyncClient, *namespaces: str, **changes: Any) -> Header:
    scopes = ["read", "write", "admin"]
    key = await created(api, name="admin", scopes=scopes, namespaces=[*namespaces], **changes)
    return await until_valid(api, key["key"])


async def ids_seen(api: httpx.AsyncClient, by: Header = BEARER) -> list[str]:
    return [each["key_id"] for each in (await api.get(KEYS, headers=by)).json()["keys"]]


async def test_a_created_key_works_and_its_secret_is_answered_once(api: httpx.AsyncClient, lab: Lab) -> None:
    answer = await api.post(KEYS, json=NEW | {"rate_per_s": 7, "scopes": ["read", "write", "read"]})
    assert answer.status_code == 201
    assert answer.headers["cache-control"] == "no-store"
    new = answer.json()
    key = new.pop("key")
    assert new == NEW | {"key_id": key.split("_")[1], "scopes": ["read", "write"], "rate_per_s": 7}
    header = await until_valid(api, key)
    assert (await api.post(PATH, json=EVENT, headers=header)).status_code == 200
    listed = await api.get(KEYS)
    (only,) = listed.json()["keys"]
    assert only == new | {"created_at": only["created_at"], "revoked_at": None}
    assert only["created_at"].endswith("Z")
    assert key not in listed.text
    assert key.split("_", 2)[2] not in str(await lab.rows("SELECT * FROM api_keys"))


async def test_a_key_describes_itself_without_any_scope(api: httpx.AsyncClient) -> None:
    new = await created(api, name="cleaner", scopes=["delete"], namespaces=["shop", "default"])
    header = await until_valid(api, new["key"])
    own = (await api.get(f"{KEYS}/self", headers=header | {"X-Namespace": "default"})).json()
    assert own == {
        "key_id": new["key_id"],
        "name": "cleaner",
        "scopes": ["delete"],
        "namespaces": ["shop", "default"],
        "namespace": "default",
        "rate_per_s": 0,
    }
    root = (await api.get(f"{KEYS}/self")).json()
    assert (root["key_id"], root["name"], root["scopes"], root["namespace"]) == ("root", None, [*SCOPES], "default")
    assert_error(await api.get(f"{KEYS}/self", headers=bearer("tk_00000000_x")), 401, "UnauthorizedError")
    for method, path in (("GET", KEYS), ("POST", KEYS), ("DELETE", f"{KEYS}/{new['key_id']}")):
        assert_error(await api.request(method, path, json=NEW, headers=header), 403, "ForbiddenError")


async def test_a_key_grants_only_what_it_has(api: httpx.AsyncClient) -> None:
    admin = await tenant_admin(api, "shop", rate_per_s=100)
    for changes, named in (
        ({"scopes": ["read", "delete"]}, "'delete'"),
        ({"namespaces": ["shop", "theirs"]}, "'theirs'"),
        ({"namespaces": ["x" * 128]}, "x…'"),
        ({"rate_per_s": 101}, "101 requests"),
        ({"rate_per_s": 0}, "unlimited requests"),
    ):
        refused = await api.post(KEYS, json=NEW | {"rate_per_s": 100} | changes, headers=admin)
        assert named in assert_error(refused, 403, "ForbiddenError")["message"]
    await created(api, admin, rate_per_s=100)
    await created(api, namespaces=["a namespace that TALLY_API_KEY is not bound to"])


async def test_a_key_sees_and_revokes_only_keys_of_its_own_namespaces(api: httpx.AsyncClient) -> None:
    admin = await tenant_admin(api, "shop", "mine")
    theirs = await created(api, namespaces=["theirs"])
    both = await created(api, namespaces=["shop", "theirs"])
    own = await created(api, admin, namespaces=["mine"])
    assert set(await ids_seen(api, admin)) == {admin["Authorization"].split("_")[1], own["key_id"]}
    assert {theirs["key_id"], both["key_id"], own["key_id"]} < set(await ids_seen(api))
    for key in (theirs, both):
        refused = await api.delete(f"{KEYS}/{key['key_id']}", headers=admin)
        assert_error(refused, 404, "NotFoundError")
        unknown = await api.delete(f"{KEYS}/00000000", headers=admin)
        assert refused.text.replace(key["key_id"], "00000000") == unknown.text, "which keys exist is not shown"
        await until_valid(api, key["key"])


async def test_a_revoked_key_is_refused_and_revoking_it_again_is_safe(api: httpx.AsyncClient) -> None:
    new = await created(api)
    header = await until_valid(api, new["key"])
    first = await api.delete(f"{KEYS}/{new['key_id']}")
    assert first.status_code == 200
    assert first.json()["revoked_at"].endswith("Z")
    assert (await api.delete(f"{KEYS}/{new['key_id']}")).json() == first.json()

    async def is_refused() -> bool:
        return (await api.get(f"{KEYS}/self", headers=header)).status_code == 401

    await eventually_async(is_refused)
    assert_error(await api.delete(f"{KEYS}/root"), 404, "NotFoundError")
    valid = await created(api)
    listed = (await api.get(KEYS, params={"limit": 1})).json()
    assert ([each["key_id"] for each in listed["keys"]], listed["truncated"]) == ([valid["key_id"]], True)


async def test_creations_and_revocations_are_logged_without_keys(
    api: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "tally.api"):
        new = await created(api)
        await api.delete(f"{KEYS}/{new['key_id']}")
    told = [each for each in caplog.messages if new["key_id"] in each and "API key root" in each]
    assert [each.partition(":")[0] for each in told] == [
        f"API key root created API key {new['key_id']}",
        f"API key root revoked API key {new['key_id']}",
    ]
    assert new["key"].split("_", 2)[2] not in caplog.text


async def test_the_number_of_valid_keys_is_bounded(lab: Lab) -> None:
    async with api_of(with_key(lab.settings, keys_valid=1)) as api:
        new = await created(api)
        refused = await api.post(KEYS, json=NEW)
        assert "TALLY_KEYS_VALID" in assert_error(refused, 422, "ValidationError", "too_many_keys")["message"]
        await api.delete(f"{KEYS}/{new['key_id']}")
        await created(api)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": " x"}, "name"),
        ({"name": "a\u001b[31m"}, "name"),
        ({"name": "x" * 201}, "name"),
        ({"scopes": []}, "scopes"),
        ({"scopes": ["root"]}, "scopes.0"),
        ({"namespaces": []}, "namespaces"),
        ({"namespaces": ["a,b"]}, "namespaces.0"),
        ({"namespaces": ["n"] * 101}, "namespaces"),
        ({"rate_per_s": -1}, "rate_per_s"),
        ({"rate_per_s": "1"}, "rate_per_s"),
        ({"admin": True}, "admin"),
    ],
)
async def test_an_invalid_key_names_its_field(api: httpx.AsyncClient, changes: dict[str, Any], field: str) -> None:
    refused = await api.post(KEYS, json=NEW | changes)
    assert assert_error(refused, 422, "ValidationError")["message"].startswith(f"body.{field}: ")
    assert await ids_seen(api) == []


granted = st.lists(st.sampled_from(SCOPES), min_size=1, unique=True)
bound = st.lists(st.sampled_from(("shop", "mine", "theirs")), min_size=1, unique=True)


@settings(max_examples=25)
@given(granted, bound, granted, bound)
async def test_no_chain_of_keys_gains_a_right(
    api: httpx.AsyncClient, lab: Lab, scopes: list[Scope], namespaces: list[str], more: list[Scope], others: list[str]
) -> None:
    """Law: a key is created exactly if its scopes and namespaces are among those of the key that creates it."""
    _, key = await KeyStore(lab.database).create("one", scopes, namespaces)
    header = await until_valid(api, key)
    answer = await api.post(KEYS, json={"name": "two", "scopes": more, "namespaces": others}, headers=header)
    is_allowed = "admin" in scopes and {*more} <= {*scopes} and {*others} <= {*namespaces}
    assert answer.status_code == (201 if is_allowed else 403)
    seen = await api.get(KEYS, headers=header)
    assert seen.status_code == (200 if "admin" in scopes else 403)
    for each in seen.json().get("keys", ()):
        assert {*each["namespaces"]} <= {*namespaces}


async def test_the_start_page_names_the_documentation_or_redirects_to_the_console(lab: Lab) -> None:
    for console, status in (("", 200), ("https://console.example:8443/tally/", 307)):
        async with api_of(with_key(lab.settings, console_url=console)) as api:
            answer = await api.get("/", headers={"Authorization": ""})
            assert answer.status_code == status
            if console:
                assert answer.headers["location"] == console
            else:
                assert {"/docs", "/openapi.json"} <= {*answer.json().values()}


@pytest.mark.parametrize(
    "address",
    [
        "console",
        "javascript:alert(1)",
        "https://",
        "https://u:p@h",
        "https://h\r\nx: y",
        "https://h:99999",
        "http://[::1",
        "//h",
        "http://h?a",
    ],
)
def test_an_address_of_the_console_is_checked(address: str) -> None:
    with pytest.raises(ValidationError, match="write http"):
        Settings(console_url=address)


def test_the_settings_of_the_console_are_not_unknown(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TALLY_CONSOLE_SESSION_S", "60")
    monkeypatch.setenv("TALLY_CONSOL_URL", "x")
    Settings.load()
    assert caplog.messages == ["TALLY_CONSOL_URL is ignored: no setting has this name (docs/settings.md)"]
