"""The export over HTTP: errors before the first byte are answers, later ones break the response off."""

import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx
import pyarrow.parquet
import pytest

from readers.export_format import EXPORT_FORMATS, MEDIA_TYPES
from runtime.settings import Settings
from tests.chaos.proxy import Proxy, proxy_to
from tests.export_lab import export_bytes, insert_many, request_of
from tests.http_lab import BEARER, api_of, assert_error, served, with_key
from tests.lab import Lab, at_port
from tests.waiting import eventually_async

PATH = "/v1/export"
MANY = 100_000


@asynccontextmanager
async def through_proxy(settings: Settings, **overrides: Any) -> AsyncIterator[tuple[httpx.AsyncClient, Proxy]]:
    """A served API whose connections to ClickHouse pass through a proxy, and a client of it."""
    port = urlsplit(settings.clickhouse.get_secret_value()).port or 0
    async with proxy_to(port) as proxy:
        own = with_key(settings, clickhouse=at_port(settings.clickhouse, proxy.port), **overrides)
        async with served(own) as url, httpx.AsyncClient(base_url=url, headers=BEARER, timeout=60) as client:
            yield client, proxy


async def status_of(client: httpx.AsyncClient) -> int:
    """The status of an export that has no rows."""
    return (await client.get(PATH, params={"until": "1971-01-01"})).status_code


@pytest.mark.parametrize("output", EXPORT_FORMATS)
async def test_an_export_is_an_attachment_in_its_format(lab: Lab, output: Any) -> None:
    await insert_many(lab.database, 1_000)
    await insert_many(lab.database, 10, namespace="shop")
    async with api_of(with_key(lab.settings)) as api:
        answer = await api.get(PATH, params={"format": output})
        shop = await api.get(PATH, params={"format": output}, headers={"X-Namespace": "shop"})
    assert answer.status_code == 200
    assert answer.content == await export_bytes(lab.database, request_of(output))
    assert shop.content == await export_bytes(lab.database, request_of(output, namespace="shop"))
    assert answer.headers["content-type"] == MEDIA_TYPES[output]
    assert answer.headers["content-disposition"] == f'attachment; filename="interactions.{output}"'


async def test_conditions_are_those_of_the_query(lab: Lab) -> None:
    await insert_many(lab.database, 100)
    query = {"since": "2026-01-01T00:00:10Z", "until": "2026-01-01T00:00:50Z", "columns": "feature_id", "format": "csv"}
    async with api_of(with_key(lab.settings)) as api:
        answer = await api.get(PATH, params=query | {"filters": '{"position": {"gte": 19}}'})
    assert answer.text == 'feature_id\n"doc-19"\n"doc-39"\n'


@pytest.mark.parametrize(
    ("query", "place"),
    [
        ({"format": "xml"}, ["query", "format"]),
        ({"since": "yesterday"}, ["query", "since"]),
        ({"since": "2026-01-02", "until": "2026-01-01"}, ["query", "until"]),
        ({"columns": "a"}, ["query", "columns"]),
        ({"filters": "{"}, ["query", "filters"]),
        ({"filters": '{"nobody": 1}'}, ["query", "filters", "nobody"]),
        ({"filters": '{"user_id": {"regex": "("}}'}, ["query", "filters"]),
    ],
)
async def test_an_invalid_request_is_an_error_of_the_api(
    shared_api: httpx.AsyncClient, query: dict[str, str], place: list[str]
) -> None:
    error = assert_error(await shared_api.get(PATH, params=query), 422, "ValidationError")
    assert error["details"]["validation_errors"][0]["location"] == place


async def test_an_export_needs_a_key(shared_api: httpx.AsyncClient) -> None:
    assert_error(await shared_api.get(PATH, headers={"Authorization": ""}), 401, "UnauthorizedError")


async def test_head_gives_the_headers_alone(lab: Lab) -> None:
    await insert_many(lab.database, 1_000)
    async with served(with_key(lab.settings)) as url, httpx.AsyncClient(base_url=url, headers=BEARER) as client:
        answer = await client.head(PATH)
        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers["content-type"] == MEDIA_TYPES["jsonl"]
        assert (await client.get("/v1/health")).status_code == 200


async def insert_incompressible(lab: Lab) -> None:
    """More bytes than all buffers between ClickHouse and a client hold, also as Parquet."""
    await insert_many(lab.database, MANY)
    random = "_offset + 1000000000 AS _offset, randomPrintableASCII(400) AS metadata"
    await lab.database.command(f"INSERT INTO interactions SELECT * REPLACE ({random}) FROM interactions")


@pytest.mark.parametrize("output", EXPORT_FORMATS)
async def test_exports_in_flight_are_bounded_and_a_client_that_leaves_ends_its_own(lab: Lab, output: Any) -> None:
    await insert_incompressible(lab)
    async with through_proxy(lab.settings, exports_in_flight=1) as (client, _proxy):
        async with client.stream("GET", PATH, params={"format": output}) as first:
            assert first.status_code == 200
            error = assert_error(await client.get(PATH), 503, "ServiceUnavailableError")
            assert "TALLY_EXPORTS_IN_FLIGHT" in error["message"]

        async def is_free() -> bool:
            return await status_of(client) == 200

        await eventually_async(is_free)

        async def no_query_runs() -> bool:
            exports = "query LIKE '% FINAL %' AND query NOT LIKE '%system.processes%'"
            return await lab.rows(f"SELECT query FROM system.processes WHERE {exports}") == []

        await eventually_async(no_query_runs)


async def test_a_client_that_does_not_read_is_cut(lab: Lab) -> None:
    await insert_many(lab.database, MANY)
    slow = {"exports_in_flight": 1, "http_write_timeout_ms": 200}
    async with through_proxy(lab.settings, **slow) as (client, _proxy), client.stream("GET", PATH) as first:

        async def is_free() -> bool:
            return await status_of(client) == 200

        await eventually_async(is_free)
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            await first.aread()


@pytest.mark.parametrize("output", EXPORT_FORMATS)
async def test_a_lost_store_breaks_the_response_off(lab: Lab, output: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A client cannot take a part for the whole, and the API serves on."""
    await insert_incompressible(lab)
    async with through_proxy(lab.settings) as (client, proxy):
        async with client.stream("GET", PATH, params={"format": output}) as answer:
            pieces = answer.aiter_raw()
            assert await anext(pieces)
            proxy.cut()
            with pytest.raises(httpx.RemoteProtocolError):
                async for _ in pieces:
                    pass
        assert await status_of(client) == 200
    (line,) = [each.getMessage() for each in caplog.records if "broke off" in each.getMessage()]
    assert "ClickHouse" in line
    assert "Traceback" not in caplog.text


async def test_a_store_that_is_away_is_an_answer(lab: Lab) -> None:
    async with through_proxy(lab.settings) as (client, proxy):
        proxy.refusing = True
        proxy.cut()
        assert_error(await client.get(PATH), 503, "ServiceUnavailableError")


async def test_a_slow_store_is_an_answer_that_names_the_setting(lab: Lab) -> None:
    async with through_proxy(lab.settings, export_timeout_ms=200) as (client, proxy):
        proxy.hold_answers()
        error = assert_error(await client.get(PATH), 503, "ServiceUnavailableError")
    assert "TALLY_EXPORT_TIMEOUT_MS" in error["message"]


async def test_parquet_has_types_of_its_own(lab: Lab) -> None:
    await insert_many(lab.database, 10)
    async with api_of(with_key(lab.settings)) as api:
        table = pyarrow.parquet.read_table(io.BytesIO((await api.get(PATH, params={"format": "parquet"})).content))
    types = {field.name: str(field.type) for field in table.schema}
    assert types["timestamp"] == types["occurred_at"] == "timestamp[ms, tz=UTC]"
    assert types["interaction_type"].startswith("list<")
    assert (types["position"], types["document_score"], types["deduplicated"]) == ("uint32", "double", "bool")
    assert {types[name] for name in ("feature_id", "user_id", "metadata", "retriever_id", "warning")} == {"string"}
