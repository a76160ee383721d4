"""Keys, scopes, namespaces and page tokens: permissions, and isolation of namespaces."""

import asyncio
import base64
import itertools
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from producers.producer import Producer
from readers.filters import read_filters
from runtime.errors import TallyError
from runtime.http.key_store import KeyStore
from runtime.http.keys import ROOT, SCOPES, PageToken, Scope, hash_of, key_id_of, new_key
from tests.filter_reference import holds
from tests.http_lab import EVENT, PATH, api_of, assert_error, until_keys_are_known, with_key
from tests.lab import Lab, click
from tests.test_listing import groups, records
from tests.waiting import eventually_async

SHOP = "https://shop.example"
DEAD_LETTERS = "/v1/dead-letters"
LEARNING_CONFIG = "/v1/retrievers/hybrid/learning-config"


@pytest.fixture
async def store(lab: Lab) -> KeyStore:
    return KeyStore(lab.database)


@pytest.fixture
async def api(lab: Lab, store: KeyStore) -> AsyncIterator[httpx.AsyncClient]:
    """The API on this test's tables."""
    async with api_of(with_key(lab.settings, api_namespaces=("default", "shop"))) as client:
        await until_keys_are_known(client)
        yield client


async def key_with(
    api: httpx.AsyncClient, store: KeyStore, scopes: tuple[Scope, ...], *namespaces: str
) -> dict[str, str]:
    """The header of a key that counts by now."""
    _, key = await store.create("a test's", scopes, namespaces or ("default",))
    header = {"Authorization": f"Bearer {key}"}

    async def counts() -> bool:
        return (await api.get("/v1/outcomes", headers=header)).status_code not in (401, 503)

    await eventually_async(counts)
    return header


CALLS: dict[Scope, list[tuple[str, str, Any]]] = {
    "write": [
        ("POST", PATH, EVENT),
        ("POST", f"{PATH}/batch", {"interactions": [EVENT]}),
        ("POST", f"{PATH}/validate", EVENT),
        ("POST", f"{PATH}/beacon-token", {"origin": SHOP}),
        ("PUT", LEARNING_CONFIG, {}),
        ("DELETE", LEARNING_CONFIG, None),
    ],
    "read": [
        ("GET", f"{PATH}/no-id", None),
        ("GET", f"{PATH}/no-id/status", None),
        ("POST", f"{PATH}/list", {}),
        ("GET", "/v1/outcomes", None),
        ("GET", LEARNING_CONFIG, None),
        ("GET", f"{LEARNING_CONFIG}/history", None),
        ("GET", "/v1/refusals", None),
        ("GET", DEAD_LETTERS, None),
        ("GET", f"{DEAD_LETTERS}/groups", None),
        ("GET", f"{DEAD_LETTERS}/0/0", None),
        ("POST", f"{DEAD_LETTERS}/0/0/check", {}),
        ("POST", f"{DEAD_LETTERS}/replay", {}),
    ],
    "delete": [("DELETE", f"{PATH}/no-id", None)],
    "admin": [
        ("GET", "/v1/outcomes?unattributed=true", None),
        ("GET", "/v1/keys", None),
        ("DELETE", "/v1/keys/unknown", None),
        ("GET", f"{DEAD_LETTERS}?unattributed=true", None),
    ],
}


@pytest.mark.parametrize("scope", SCOPES)
async def test_a_scope_allows_its_calls_and_no_others(api: httpx.AsyncClient, store: KeyStore, scope: Scope) -> None:
    held: tuple[Scope, ...] = ("read", "admin") if scope == "admin" else (scope,)
    header = await key_with(api, store, held)
    for needed, calls in CALLS.items():
        for method, path, body in calls:
            answer = await api.request(method, path, json=body, headers=header)
            if needed in held:
                assert answer.status_code in (200, 404), (path, answer.text)
            else:
                assert_error(answer, 403, "ForbiddenError")


async def test_every_call_needs_a_key(api: httpx.AsyncClient) -> None:
    wrong = ({"Authorization": ""}, {"Authorization": "Bearer tk_00000000_x"}, {"Authorization": "Bearer tk__"})
    for header in wrong:
        for method, path, body in itertools.chain.from_iterable(CALLS.values()):
            assert_error(await api.request(method, path, json=body, headers=header), 401, "UnauthorizedError")


async def test_a_revoked_key_and_its_tokens_are_refused(api: httpx.AsyncClient, store: KeyStore) -> None:
    header = await key_with(api, store, ("write", "read"))
    token = (await api.post(f"{PATH}/beacon-token", json={"origin": SHOP}, headers=header)).json()["token"]
    assert await beacon(api, token, SHOP) == 204
    await store.revoke(key_id_of(header["Authorization"].removeprefix("Bearer ")))

    async def is_refused() -> bool:
        return (await api.post(PATH, json=EVENT, headers=header)).status_code == 401

    await eventually_async(is_refused)
    assert await beacon(api, token, SHOP) == 401
    with pytest.raises(TallyError, match="tally keys list"):
        await store.revoke("nothing")


async def test_only_hashes_of_keys_are_stored(lab: Lab, store: KeyStore) -> None:
    key_id, key = await store.create("one", ("read",), ("default",), 7)
    rows = str(await lab.rows("SELECT * FROM api_keys"))
    assert key not in rows
    assert key.split("_", 2)[2] not in rows
    (listed,) = await store.list()
    assert (listed.key_id, listed.name, listed.rate_per_s, listed.revoked_at) == (key_id, "one", 7, None)
    assert (await store.valid_keys())[key_id].is_of(key)


async def test_known_keys_are_accepted_while_the_table_cannot_be_read(
    api: httpx.AsyncClient, store: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = await key_with(api, store, ("write",))
    looked = asyncio.Event()

    async def away(_self: KeyStore) -> Any:
        looked.set()
        raise TallyError("ClickHouse is away")

    monkeypatch.setattr(KeyStore, "version", away)
    await asyncio.wait_for(looked.wait(), 30)
    assert (await api.post(PATH, json=EVENT, headers=header)).status_code == 200


async def test_a_key_created_before_the_start_is_accepted_from_the_first_request(lab: Lab, store: KeyStore) -> None:
    _, key = await store.create("a test's", ("write",), ("default",))
    async with api_of(with_key(lab.settings, keys_refresh_ms=60_000)) as api:
        assert (await api.post(PATH, json=EVENT, headers={"Authorization": f"Bearer {key}"})).status_code == 200


async def test_unknown_keys_are_a_503_while_the_table_cannot_be_read(lab: Lab) -> None:
    """A client treats a 401 as final and drops its events."""
    nowhere = with_key(lab.settings, clickhouse=SecretStr("http://127.0.0.1:1"), connect_timeout_ms=100)
    async with api_of(nowhere) as api:
        for method, path, body in CALLS["write"]:
            answer = await api.request(method, path, json=body, headers={"Authorization": "Bearer tk_00000000_x"})
            assert_error(answer, 503, "ServiceUnavailableError")
        assert await beacon(api, PageToken.until("00000000", "default", SHOP, 60).signed(b"x"), SHOP) == 503
        assert (await api.post(PATH, json=EVENT)).status_code == 200


async def test_without_a_key_in_the_settings_only_keys_in_the_table_are_accepted(lab: Lab, store: KeyStore) -> None:
    async with api_of(with_key(lab.settings, api_key=SecretStr(""))) as api:
        header = await key_with(api, store, ("write",))
        assert (await api.post(PATH, json=EVENT, headers=header)).status_code == 200
        for sent in ("Bearer ", "Bearer  ", "Bearer x"):
            assert_error(await api.post(PATH, json=EVENT, headers={"Authorization": sent}), 401, "UnauthorizedError")


async def beacon(api: httpx.AsyncClient, token: str, origin: str | None, content: bytes | None = None) -> int:
    headers = {"Authorization": "", "Content-Type": "text/plain;charset=UTF-8"} | ({"Origin": origin} if origin else {})
    content = json.dumps(EVENT).encode() if content is None else content
    answer = await api.post(f"{PATH}/beacon", params={"token": token}, content=content, headers=headers)
    assert answer.headers["access-control-allow-origin"] == "*", "a page can tell what became of it"
    return answer.status_code


async def test_a_page_token_is_limited_to_its_origin_namespace_and_lifetime(
    lab: Lab, api: httpx.AsyncClient, store: KeyStore
) -> None:
    header = await key_with(api, store, ("write",), "shop")
    key = header["Authorization"].removeprefix("Bearer ")
    token = (await api.post(f"{PATH}/beacon-token", json={"origin": SHOP, "expires_in_s": 60}, headers=header)).json()[
        "token"
    ]
    assert key.split("_", 2)[2] not in token
    for origin, status in ((SHOP, 204), ("https://shop.example.evil", 403), (None, 403), ("null", 403)):
        assert await beacon(api, token, origin) == status
    assert await beacon(api, token[:-1], SHOP) == 401
    assert await beacon(api, token[:9] + ("A" if token[9] != "A" else "B") + token[10:], SHOP) == 401
    hashed = hash_of(key)
    for claims in (
        PageToken.until(key_id_of(key), "shop", SHOP, -1),
        PageToken.until("00000000", "shop", SHOP, 60),
    ):
        assert await beacon(api, claims.signed(hashed), SHOP) == 401
    for claims, by in ((PageToken.until(key_id_of(key), "default", SHOP, 60), hashed),):
        assert await beacon(api, claims.signed(by), SHOP) == 403, "its key may not write there"
    assert_error(await api.get("/v1/outcomes", headers={"Authorization": f"Bearer {token}"}), 401, "UnauthorizedError")
    await lab.drain()
    assert await lab.rows("SELECT namespace FROM interactions") == [("shop",)]


async def test_a_read_key_cannot_sign_a_page_token(api: httpx.AsyncClient, store: KeyStore) -> None:
    header = await key_with(api, store, ("read",))
    key = header["Authorization"].removeprefix("Bearer ")
    token = PageToken.until(key_id_of(key), "default", SHOP, 60).signed(hash_of(key))
    assert await beacon(api, token, SHOP) == 403


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"[%s, %s]", 204),
        (b'{"interactions": [%s, %s]}', 204),
        (b"[%s, {}]", 200),
        (b"[{}, {}]", 422),
        (b"[]", 422),
        (b"{}", 422),
        (b"", 400),
        (b"{", 400),
        (b"[" * 3_000, 422),
        ('[{"²": 1}]'.encode(), 422),
    ],
)
async def test_a_page_sends_one_event_or_a_list(api: httpx.AsyncClient, content: bytes, status: int) -> None:
    token = PageToken.until(ROOT, "default", SHOP, 60).signed(hash_of("a-secret-key"))
    event = json.dumps(EVENT).encode()
    assert await beacon(api, token, SHOP, content % ((event,) * content.count(b"%s"))) == status


DEEP = f"tb_{base64.urlsafe_b64encode(b'[' * 1_500).decode()}.x"


@given(st.text(max_size=80), st.binary(max_size=40))
def test_only_signed_text_is_a_token(text: str, hashed: bytes) -> None:
    for candidate in (text, f"tb_{text}", f"tb_{text}.{text}", DEEP):
        read = PageToken.read(candidate)
        assert read is None or not read[0].is_signed(candidate, read[1], hashed)


@given(st.text(max_size=30), st.text(max_size=30))
def test_a_token_contains_its_signed_claims(namespace: str, origin: str) -> None:
    key_id, key = new_key()
    claims = PageToken(key_id, namespace, origin, 0, 60)
    token = claims.signed(hash_of(key))
    read = PageToken.read(token)
    assert read is not None
    assert read[0] == claims
    assert claims.is_signed(token, read[1], hash_of(key))
    assert not claims.is_signed(token, read[1], hash_of(key + "x"))


async def test_a_key_of_one_namespace_reads_nothing_of_another(
    lab: Lab, api: httpx.AsyncClient, store: KeyStore
) -> None:
    """A key of one namespace, against every endpoint, with the ids, cursors, filters and keys of another."""
    await store.create("theirs", ("read",), ("theirs",))
    mine = await key_with(api, store, ("write", "read", "delete"), "mine")
    async with api_of(with_key(lab.settings, api_namespaces=("theirs",))) as theirs:
        secret = {"user_id": "their-user", "metadata": {"k": "their-secret"}, "session_id": "their-session"}
        made = [
            (
                await theirs.post(
                    PATH, json=EVENT | {"feature_id": f"their-{n}", "execution_id": f"their-{n}"} | secret
                )
            ).json()
            for n in range(6)
        ]
        repeat = await theirs.post(PATH, json=EVENT | {"feature_id": "their-0", "execution_id": "their-0"} | secret)
        await lab.drain()
        cursor = (await theirs.post(f"{PATH}/list", params={"limit": 2})).json()["pagination"]["next_cursor"]
        their_outcomes = (await theirs.get("/v1/outcomes")).json()["results"]
        assert len(their_outcomes) == 1
        ids = [each["interaction_id"] for each in made] + [repeat.headers["x-interaction-id"]]

        answers = []
        for namespace in ({}, {"X-Namespace": "theirs"}, {"X-Namespace": "mine"}):
            headers = mine | namespace
            for interaction_id in ids:
                answers += [
                    await api.get(f"{PATH}/{interaction_id}", headers=headers),
                    await api.get(f"{PATH}/{interaction_id}/status", headers=headers),
                    await api.delete(f"{PATH}/{interaction_id}", headers=headers),
                ]
            for body in (
                {},
                {"filters": {"interaction_id": {"in": ids}}},
                {"filters": {"OR": [{"user_id": "their-user"}, {"metadata.k": {"contains": "secret"}}]}},
                {"filters": {"NOT": [{"user_id": "nobody"}]}},
                {"filters": {"user_id": {"regex": ".*"}}},
                {"user_id": "their-user"},
                {"search": "their-secret"},
                {"sort": {"field": "user_id"}},
            ):
                for query in ({"include_total": True}, {"cursor": cursor}):
                    if "sort" not in body or "cursor" not in query:
                        answers.append(await api.post(f"{PATH}/list", json=body, params=query, headers=headers))
            for query in ({}, {"user_id": "their-user"}, {"execution_id": "their-0"}, {"cursor": ids[-1]}):
                answers.append(await api.get("/v1/outcomes", params=query, headers=headers))
            # The same tuple and the same idempotency key are other ones here.
            same = EVENT | {"feature_id": "their-1", "execution_id": "their-1"}
            answers.append(await api.post(PATH, json=same, headers=headers | {"Idempotency-Key": "x"}))
        for answer in answers:
            assert answer.status_code in (200, 403, 404), answer.text
            asked = answer.request.url.path + (answer.request.content or b"").decode()
            for secret_text in ("their-user", "their-secret", "their-session"):
                assert secret_text not in answer.text or secret_text in asked, answer.text
            if answer.status_code == 200 and answer.request.url.path.endswith("/list"):
                assert answer.json()["results"] == []
                assert answer.json()["pagination"]["total"] in (0, None)
            if answer.status_code == 200 and answer.request.url.path == "/v1/outcomes":
                assert answer.json()["results"] == []
            if answer.status_code == 200 and answer.request.url.path.endswith("/status"):
                assert answer.json()["status"] in ("unknown", "accepted", "deleted")
            assert "x-duplicate-of" not in answer.headers or answer.headers["x-duplicate-of"] not in ids
        for interaction_id in ids[:-1]:
            assert (await theirs.get(f"{PATH}/{interaction_id}")).status_code == 200, "and nothing was deleted"


async def test_another_namespace_in_the_header_is_forbidden(lab: Lab, api: httpx.AsyncClient) -> None:
    (receipt,) = await lab.emit(click())
    await lab.drain()
    for namespace in ("", " ", "default ", "DEFAULT", "default,shop", "theirs", "\u00e9"):
        answer = await api.get(f"{PATH}/{receipt.interaction_id}", headers=[(b"X-Namespace", namespace.encode())])
        assert_error(answer, 403, "ForbiddenError")


@pytest.fixture
async def mine(lab: Lab, api: httpx.AsyncClient, store: KeyStore) -> dict[str, str]:
    """A key of a namespace beside another one, with the same records in both."""
    async with Producer(lab.settings) as producer:
        for namespace in ("mine", "theirs"):
            for interaction in records(7, 25):
                await producer.emit(interaction.model_copy(update={"session_id": namespace}), namespace=namespace)
    await lab.drain()
    return await key_with(api, store, ("read",), "mine")


@settings(max_examples=40)
@given(groups())
@example({"AND": [{"field": "session_id", "operator": "exists", "value": True}]})
@example({"OR": [{"field": "session_id", "operator": "eq", "value": "theirs"}]})
async def test_no_filter_reads_another_namespace(
    api: httpx.AsyncClient, mine: dict[str, str], filters: dict[str, Any]
) -> None:
    """Law: for any query, a list returns and counts only records of the key's own namespace."""
    ours = (await api.post(f"{PATH}/list", json={}, headers=mine)).json()["results"]
    assert len(ours) == 25
    asked, everything = {"filters": filters}, {"include_total": True}
    page = (await api.post(f"{PATH}/list", json=asked, params=everything, headers=mine)).json()
    assert [each["interaction_id"] for each in page["results"]] == [
        each["interaction_id"] for each in ours if holds(read_filters(filters), each)
    ]
    assert {each["session_id"] for each in page["results"]} <= {"mine"}
    assert page["pagination"]["total"] == len(page["results"])
