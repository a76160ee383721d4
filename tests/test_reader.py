"""The reader over HTTP: the record field for field, receipts, and errors in the published shape."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.producer import Producer
from readers.lookup import IDS_PER_QUERY, Lookups
from runtime.clickhouse import ClickHouse
from runtime.errors import Unavailable
from schemas.identity import PREFIX, mint_id
from schemas.interaction import NO_FEATURE_URI
from schemas.outcome import Stored
from schemas.record import InteractionRecord
from schemas.wire import encode_headers
from tests.http_lab import BEARER, KEY, PATH, api_of, assert_error, until_keys_are_known, with_key
from tests.lab import Lab, as_json, click
from tests.waiting import eventually_async

OLD_ID = f"{PREFIX}016ebec1914e763e9d5c8ecf468390b5"


@pytest.fixture
async def api(lab: Lab) -> AsyncIterator[httpx.AsyncClient]:
    """The API on this test's database, which knows how far the consumers are. It sends no key by itself."""
    async with api_of(with_key(lab.settings)) as client:

        async def is_known() -> bool:
            status = await client.get(f"{PATH}/{OLD_ID}/status", headers=BEARER)
            return bool(status.json()["status"] == "unknown")

        del client.headers["Authorization"]
        await eventually_async(is_known)
        await until_keys_are_known(client)
        yield client


async def test_the_record_has_all_17_fields(lab: Lab, api: httpx.AsyncClient) -> None:
    sent: dict[str, Any] = {
        "feature_id": "doc-1",
        "interaction_type": ["impression", "click"],
        "position": 3,
        "metadata": {"n": 1.1, "big": 12345678901234567890123, "l": [{"ü": None}]},
        "user_id": "u",
        "session_id": "s",
        "execution_id": "e",
        "retriever_id": "r",
        "query_snapshot": {"text": "q"},
        "document_score": 0.75,
        "result_set_size": 20,
        "feature_uri": "tally://x",
        "occurred_at": "2026-01-02T03:04:05.678Z",
    }
    (receipt,) = await lab.emit(click(**sent))
    await lab.drain()
    answer = await api.get(f"{PATH}/{receipt.interaction_id}", headers=BEARER)
    assert answer.status_code == 200
    record = answer.json()
    assert len(record) == 17
    assert set(record) == set(InteractionRecord.model_fields)
    InteractionRecord.model_validate(record)
    stamped = receipt.timestamp.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    added = {"interaction_id": receipt.interaction_id, "deduplicated": False, "timestamp": stamped, "warning": None}
    assert record == sent | added
    assert '"big":12345678901234567890123' in answer.text, "as sent, digit for digit"


async def test_omitted_fields_are_null(lab: Lab, api: httpx.AsyncClient) -> None:
    await lab.put(as_json(), headers=encode_headers("default"))
    await lab.drain()
    ((interaction_id,),) = await lab.rows("SELECT interaction_id FROM interactions")
    record = (await api.get(f"{PATH}/{interaction_id}", headers=BEARER)).json()
    given = {
        "feature_id",
        "interaction_type",
        "position",
        "execution_id",
        "interaction_id",
        "deduplicated",
        "timestamp",
    }
    assert {name for name, value in record.items() if value is not None} == given | {"warning"}
    assert record["warning"] == NO_FEATURE_URI


async def test_a_lookup_of_a_duplicate_returns_its_owners_record(lab: Lab, api: httpx.AsyncClient) -> None:
    first, second = await lab.emit(click(position=1), click(position=2))
    await lab.drain()
    answer = await api.get(f"{PATH}/{second.interaction_id}", headers=BEARER)
    assert answer.status_code == 200
    assert answer.headers["x-duplicate-of"] == first.interaction_id
    owner = (await api.get(f"{PATH}/{first.interaction_id}", headers=BEARER)).json()
    assert answer.json() == owner | {"deduplicated": True, "interaction_id": None}


async def test_a_lookup_of_a_rejected_event_returns_the_reason(lab: Lab, api: httpx.AsyncClient) -> None:
    minted = mint_id()
    await lab.put(as_json(position=-1, interaction_id=minted), headers=encode_headers("default"))
    await lab.drain()
    answer = await api.get(f"{PATH}/{minted}", headers=BEARER)
    assert_error(answer, 422, "ValidationError", "number_out_of_range")
    (error,) = answer.json()["error"]["details"]["validation_errors"]
    assert (error["type"], error["location"]) == ("number_out_of_range", ["position"])


async def test_requests_without_the_key_are_unauthorized(api: httpx.AsyncClient) -> None:
    for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": KEY},
        {"Authorization": b"Bearer \xff\xfe"},
    ):
        answer = await api.get(f"{PATH}/{mint_id()}", headers=headers)  # type: ignore[arg-type]
        assert_error(answer, 401, "UnauthorizedError", None)
        assert answer.headers["www-authenticate"] == "Bearer"
        assert KEY not in answer.text


async def test_a_namespace_reads_only_its_own_events(lab: Lab, api: httpx.AsyncClient) -> None:
    async with Producer(lab.settings) as producer:
        ids = {space: (await producer.emit(click(), namespace=space)).interaction_id for space in ("shop", "other")}
    await lab.drain()
    for space, interaction_id in ids.items():
        for asked, expected in ((None, 404), ("shop", 200 if space == "shop" else 404), ("other", 403)):
            headers = BEARER | ({"X-Namespace": asked} if asked else {})
            assert (await api.get(f"{PATH}/{interaction_id}", headers=headers)).status_code == expected


async def test_a_malformed_id_is_not_found(api: httpx.AsyncClient) -> None:
    examples: list[str] = []

    @given(st.text(min_size=1, max_size=60))
    def collect(text: str) -> None:
        examples.append(text)

    collect()
    odd = ["..", "%00", "int_", "' OR 1=1 --", "a/b", "int_" + "f" * 32, "x" * 5_000, "\u202e", "{interaction_id}"]
    for text in [*examples, *odd]:
        encoded = "".join(f"%{byte:02X}" for byte in text.encode(errors="replace"))
        answer = await api.get(f"{PATH}/{encoded}", headers=BEARER)
        assert answer.status_code in (404, 405), text
        assert answer.json()["success"] is False
    assert_error(await api.get(f"{PATH}/{OLD_ID}", headers=BEARER), 404, "NotFoundError", "unknown")
    assert_error(await api.get("/nowhere"), 404, "NotFoundError")
    assert_error(await api.post("/v1/health"), 405, "MethodNotAllowedError", None)


async def test_an_unexpected_error_is_a_500_with_an_id_and_no_trace(
    api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_args: Any) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(Lookups, "get", broken)
    answer = await api.get(f"{PATH}/{mint_id()}", headers=BEARER)
    assert_error(answer, 500, "InternalServerError", None)
    assert answer.headers["x-request-id"] in answer.json()["error"]["message"]
    assert "secret" not in answer.text


async def test_an_unreachable_database_is_a_503(
    lab: Lab, api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_args: Any, **_named: Any) -> None:
        raise Unavailable("ClickHouse at http://somewhere")

    monkeypatch.setattr(ClickHouse, "fetch", away)
    answer = await api.get(f"{PATH}/{mint_id()}", headers=BEARER)
    assert_error(answer, 503, "ServiceUnavailableError", None)
    assert answer.headers["retry-after"] == "1"
    assert "somewhere" not in answer.text


async def test_concurrent_lookups_share_queries(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    receipts = await lab.emit(*(click(f"doc-{number}") for number in range(600)))
    await lab.drain()
    asked: list[int] = []
    real = ClickHouse.fetch

    async def counted(self: ClickHouse, sql: str, parameters: Any) -> Any:
        asked.append(len(parameters["ids"]))
        return await real(self, sql, parameters)

    monkeypatch.setattr(ClickHouse, "fetch", counted)
    lookups = Lookups(lab.database, max_waiting=1_000)
    wanted = [receipt.interaction_id for receipt in receipts] * 2
    found = await asyncio.gather(*(lookups.get("default", each) for each in wanted))
    got = [outcome.row["interaction_id"] for outcome in found if isinstance(outcome, Stored)]
    assert got == wanted
    assert len(asked) <= 2 + -(-600 // IDS_PER_QUERY)


async def test_waiting_lookups_are_bounded(lab: Lab) -> None:
    lookups = Lookups(lab.database, max_waiting=5)
    answers = await asyncio.gather(*(lookups.get("default", mint_id()) for _ in range(20)), return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, Unavailable)]
    assert len(refused) == 15
    assert "TALLY_LOOKUP_IN_FLIGHT" in str(refused[0])
    assert await lookups.get("default", mint_id()) is None
