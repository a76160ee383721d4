"""Namespaces: every valid namespace can be used over HTTP, in records and by commands."""

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from typer.testing import CliRunner

from runtime.http.access import select_namespace
from runtime.http.key_store import KeyStore
from runtime.http.keys import ApiKey
from runtime.settings import Settings
from schemas.wire import check_namespace, encode_headers
from tally.cli.keys import app as keys
from tests.http_lab import EVENT, PATH, api_of, assert_error, served, until_keys_are_known, with_key
from tests.lab import Lab, as_json
from tests.test_client import Client
from tests.waiting import eventually_async

NAMES = ("münchen", "東京", "a b", "50%", "a%20b", "🙂", "ma\u0308rz", "Ã¼", "x:y/z?#", "'\"\\")
REFUSED = ("", " ", "a ", "\ta", "a,b", "a\nb", "a\0", "a\x7f", "\u0085", "a\u00a0", "\ud800", "x" * 129, "東" * 43)


def is_allowed(name: str) -> bool:
    try:
        check_namespace(name)
    except ValueError:
        return False
    return True


@pytest.fixture
async def api(lab: Lab) -> AsyncIterator[httpx.AsyncClient]:
    async with api_of(with_key(lab.settings)) as client:
        await until_keys_are_known(client)
        yield client


async def key_of(api: httpx.AsyncClient, lab: Lab, *namespaces: str) -> str:
    _, key = await KeyStore(lab.database).create("a test's", ("write", "read"), namespaces)

    async def counts() -> bool:
        return (await api.get("/v1/outcomes", headers={"Authorization": f"Bearer {key}"})).status_code == 200

    await eventually_async(counts)
    return key


@given(st.text(min_size=1, max_size=40).filter(is_allowed), st.text(min_size=1, max_size=40).filter(is_allowed))
def test_each_spelling_in_the_header_names_its_namespace(first: str, second: str) -> None:
    """The law: percent-encoded UTF-8 always, plain UTF-8 and Latin-1 where nothing else is named so."""
    key = ApiKey("k", b"", ("read",), ("default", first, second))
    assert select_namespace(None, key) == "default"
    for name in (first, second):
        assert select_namespace(name.encode().decode("latin-1"), key) == name
        encoded = select_namespace(quote(name, safe=""), key)
        assert encoded == name or quote(name, safe="") == encoded
    only = ApiKey("k", b"", ("read",), (first,))
    assert select_namespace(quote(first), only) == first
    if all(ord(each) < 256 for each in first):
        assert select_namespace(first, only) == first


async def test_every_valid_namespace_can_be_used_over_http(lab: Lab, api: httpx.AsyncClient) -> None:
    key = await key_of(api, lab, "default", *NAMES)
    for name in NAMES:
        for header in (name.encode(), quote(name).encode()):
            headers = [(b"Authorization", f"Bearer {key}".encode()), (b"X-Namespace", header)]
            assert (await api.post(PATH, json=EVENT, headers=headers)).status_code == 200, (name, header)
        await lab.put(as_json("foreign", None), headers=encode_headers(name)[:1])
    await lab.drain()
    counts = await lab.rows("SELECT namespace, uniqExact(feature_id) FROM interactions GROUP BY namespace")
    assert sorted(counts) == sorted((name, 2) for name in NAMES)
    token = (await api.post(f"{PATH}/beacon-token", json={"origin": "https://a.example"}, headers=headers)).json()[
        "token"
    ]
    paged = await api.post(
        f"{PATH}/beacon", params={"token": token}, json=EVENT, headers={"Origin": "https://a.example"}
    )
    assert paged.status_code == 204


async def test_the_published_client_uses_non_ascii_namespaces(lab: Lab, api: httpx.AsyncClient) -> None:
    """The client writes headers as Latin-1, and other characters are percent-encoded."""
    key = await key_of(api, lab, "münchen", "東京")
    async with served(with_key(lab.settings, delivery_timeout_ms=60_000)) as url:
        for namespace, feature in (("münchen", "a"), ("m%C3%BCnchen", "b"), (quote("東京"), "c")):
            assert (await Client(url, key, namespace).create(feature_id=feature)).feature_id == feature
    await lab.drain()
    stored = await lab.rows("SELECT feature_id, namespace FROM interactions ORDER BY feature_id")
    assert stored == [("a", "münchen"), ("b", "münchen"), ("c", "東京")]


@pytest.mark.parametrize("name", REFUSED)
async def test_an_invalid_namespace_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="namespace"):
        check_namespace(name)
    with pytest.raises(ValidationError):
        Settings(namespace=name)
    if name.strip() == name and "," not in name and "\ud800" not in name:  # a list is split at commas, and each trimmed
        assert CliRunner().invoke(keys, ["create", "x", "--namespaces", name]).exit_code == 2


async def test_a_record_with_an_invalid_namespace_becomes_a_dead_letter(lab: Lab) -> None:
    refused = [name for name in REFUSED if "\ud800" not in name]
    for name in refused:
        await lab.put(as_json(), headers=[("tally-namespace", name.encode())])
    await lab.put(as_json(), headers=[("tally-namespace", b"ok")])
    await lab.drain()
    assert await lab.rows("SELECT namespace FROM interactions") == [("ok",)]
    reasons: list[Any] = await lab.rows("SELECT reason, field FROM outcomes")
    assert reasons == [("bad_header", "tally-namespace")] * len(refused)


async def test_a_key_of_one_namespace_cannot_name_another(lab: Lab, api: httpx.AsyncClient) -> None:
    key = await key_of(api, lab, "münchen")
    for header in ("munchen", "M%C3%9CNCHEN", "m%FCnchen", "m%25C3%25BCnchen", "%", "m%C3%BCnchen%20", "default"):
        headers = {"Authorization": f"Bearer {key}", "X-Namespace": header}
        assert_error(await api.get("/v1/outcomes", headers=headers), 403, "ForbiddenError")
