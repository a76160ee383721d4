"""The collector over HTTP: responses, records on the topic, and cheap refusals."""

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from aiokafka import TopicPartition
from aiokafka.producer.transaction_manager import TransactionManager
from pydantic import SecretStr

from producers.collector.module import CollectorModule
from producers.partitions import partition_of
from producers.topic import TopicWriter
from runtime.errors import RecordRefused, Unavailable
from runtime.http.keys import ROOT, PageToken, hash_of
from runtime.http.service import create_app
from schemas.interaction import NO_FEATURE_URI
from schemas.outcome import Deleted, Outcome, RejectedFor
from schemas.record import InteractionRecord
from tests.http_lab import (
    BEARER,
    EVENT,
    KEY,
    PATH,
    api_of,
    assert_error,
    consuming,
    lifespan,
    served,
    until_all_ready,
    with_key,
)
from tests.lab import Lab, reading
from tests.waiting import eventually_async


@pytest.fixture
async def api(lab: Lab) -> AsyncIterator[httpx.AsyncClient]:
    """The API on this test's topic."""
    async with api_of(with_key(lab.settings)) as client:
        yield client


async def test_the_answer_equals_the_stored_record(lab: Lab, api: httpx.AsyncClient) -> None:
    sent = EVENT | {
        "metadata": {"n": 1.10, "ü": [None, {"deep": True}]},
        "document_score": 1,
        "occurred_at": "2199-01-02T03:04:05.678+02:00",
    }
    answer = await api.post(PATH, json=sent)
    assert answer.status_code == 200
    created = answer.json()
    assert set(created) == set(InteractionRecord.model_fields)
    assert created["interaction_id"] == answer.headers["x-interaction-id"]
    assert created["warning"] == NO_FEATURE_URI
    assert created["occurred_at"] == created["timestamp"], "a future time is shown as the time of recording"
    await lab.drain()
    assert (await api.get(f"{PATH}/{created['interaction_id']}")).json() == created


async def test_objects_stay_as_they_were_written(lab: Lab, api: httpx.AsyncClient) -> None:
    body = (
        b'{"document_id":"d","interaction_type":["view"],"position":1,"metadata":{"big":12345678901234567890,"f":1.10}}'
    )
    answer = await api.post(PATH, content=body)
    assert '"metadata":{"big":12345678901234567890,"f":1.10}' in answer.text
    assert answer.json()["feature_id"] == "d"
    async with reading(lab.settings, lab.settings.topic) as (record,):
        assert b'{"big":12345678901234567890,"f":1.10}' in (record.value or b"")


@pytest.mark.parametrize(
    ("body", "status", "kind", "reason", "location"),
    [
        (b"", 400, "BadRequestError", "empty", ["body"]),
        (b"{", 400, "BadRequestError", "not_json", ["body"]),
        (b'{"a": NaN}', 400, "BadRequestError", "not_json", ["body"]),
        (b'{"feature_id": "\xff"}', 400, "BadRequestError", "not_utf8", ["body"]),
        (b"[]", 422, "ValidationError", "not_an_object", ["body"]),
        (b'{"a":' * 5_000, 422, "ValidationError", "too_deep", ["body"]),
        (b'{"feature_id":"f","interaction_type":["click"],"position":1e999}', 422, "ValidationError", None, ["body"]),
        (
            b'{"feature_id":"f","interaction_type":["click"]}',
            422,
            "ValidationError",
            "missing_field",
            ["body", "position"],
        ),
        (
            b'{"feature_id":"f","interaction_type":["click"],"position":"3"}',
            422,
            "ValidationError",
            "wrong_type",
            ["body", "position"],
        ),
        (
            b'{"feature_id":"f","interaction_type":["clik"],"position":3}',
            422,
            "ValidationError",
            "unknown_interaction_type",
            ["body", "interaction_type", 0],
        ),
        (
            b'{"feature_id":"f","interaction_type":["click"],"position":99999999999999999999}',
            422,
            "ValidationError",
            "number_out_of_range",
            ["body", "position"],
        ),
        (
            b'{"feature_id":"f","document_id":"g","interaction_type":["click"],"position":3}',
            422,
            "ValidationError",
            "conflict",
            ["body"],
        ),
    ],
)
async def test_an_invalid_event_is_refused(
    shared_lab: Lab,
    shared_api: httpx.AsyncClient,
    body: bytes,
    status: int,
    kind: str,
    reason: str | None,
    location: list[Any],
) -> None:
    before = await shared_lab.log_ends()
    error = assert_error(await shared_api.post(PATH, content=body), status, kind)
    first = error["details"]["validation_errors"][0]
    assert first["location"] == location
    assert reason is None or first["type"] == reason
    assert first["message"]
    assert await shared_lab.log_ends() == before, "nothing was put on the topic"


async def test_a_key_that_is_not_declared_is_named_with_those_that_are(shared_api: httpx.AsyncClient) -> None:
    for key in ("interaction_id", "timestamp", "foo"):
        error = assert_error(await shared_api.post(PATH, json=EVENT | {key: None}), 422, "ValidationError")
        (problem,) = error["details"]["validation_errors"]
        assert problem["location"] == ["body", key]
        assert "accepted are document_id, feature_id" in problem["message"]
        assert "interaction_id" not in problem["message"]


async def test_a_body_is_bounded_in_any_encoding(lab: Lab) -> None:
    async with api_of(with_key(lab.settings, http_body_bytes=2_000)) as api:
        large = json.dumps(EVENT | {"metadata": {"x": "y" * 2_000}}).encode()

        async def chunks() -> AsyncIterator[bytes]:
            for start in range(0, len(large), 100):
                yield large[start : start + 100]

        for content, headers in (
            (large, {}),
            (chunks(), {}),
            (gzip.compress(large), {"Content-Encoding": "gzip"}),
            (zlib.compress(b" " * 10_000_000), {"Content-Encoding": "deflate"}),
        ):
            answer = await api.post(PATH, content=content, headers=headers)
            assert_error(answer, 413, "PayloadTooLargeError")
        small = gzip.compress(json.dumps(EVENT).encode())
        assert (await api.post(PATH, content=small, headers={"Content-Encoding": "gzip"})).status_code == 200
        assert_error(
            await api.post(PATH, content=small, headers={"Content-Encoding": "br"}), 415, "UnsupportedMediaTypeError"
        )
        for broken in (small[:-5], b"no gzip"):
            answer = await api.post(PATH, content=broken, headers={"Content-Encoding": "gzip"})
            assert_error(answer, 400, "BadRequestError")


async def test_a_body_that_does_not_arrive_times_out(lab: Lab) -> None:
    async with served(with_key(lab.settings, http_body_timeout_ms=200)) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        lines = (f"POST {PATH} HTTP/1.1", "Host: t", f"Authorization: {BEARER['Authorization']}", "Content-Length: 9")
        writer.write("\r\n".join([*lines, "", "{"]).encode())
        assert b" 408 " in await reader.readline()
        writer.close()


async def test_settings_can_narrow_the_bounds(lab: Lab) -> None:
    async with api_of(with_key(lab.settings, http_event_bytes=1_024, http_batch_items=2)) as api:
        error = assert_error(
            await api.post(PATH, json=EVENT | {"metadata": {"x": "y" * 1_024}}), 422, "ValidationError"
        )
        assert error["details"]["validation_errors"][0]["type"] == "too_large"
        assert_error(await api.post(f"{PATH}/batch", json={"interactions": [EVENT] * 3}), 422, "ValidationError")
        assert (await api.post(PATH, json=EVENT | {"metadata": {"x": 1}})).status_code == 200


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"[]", 422),
        (b"{}", 422),
        (b'{"interactions":[]}', 422),
        (b'{"interactions":{}}', 422),
        (b'{"interactions":[{}],"more":1}', 422),
        (b'{"interactions":[' + b"[" * 5_000, 422),
        (b'{"interactions":[{}],"interactions":[{}]}', 422),
        (b'{"interactions":[{}],"interaction\\u0073":[{}]}', 422),
        (b'{"interaction\\u0073":[{}],"\\u0069nteractions":[{}]}', 422),
    ],
)
async def test_a_malformed_batch_is_refused_as_a_whole(shared_api: httpx.AsyncClient, body: bytes, status: int) -> None:
    kind = {400: "BadRequestError", 422: "ValidationError"}[status]
    assert_error(await shared_api.post(f"{PATH}/batch", content=body), status, kind)


async def test_items_of_a_batch_fail_separately(lab: Lab, api: httpx.AsyncClient) -> None:
    items = [EVENT, 5, EVENT | {"position": "3"}, EVENT | {"feature_id": "other"}, None, {"a": 1e3}]
    answer = (await api.post(f"{PATH}/batch", json={"interactions": items})).json()
    assert (answer["created"], answer["failed"]) == (2, 4)
    assert [each["status"] for each in answer["results"]] == [
        "created",
        "failed",
        "failed",
        "created",
        "failed",
        "failed",
    ]
    assert [error.split(":")[0] for error in answer["errors"]] == ["1", "2", "4", "5"]
    counts = await lab.drain()
    assert (counts.stored, counts.rejected) == (2, 0), "what the validator refuses never gets on the topic"


async def test_a_batch_may_disable_deduplication(lab: Lab, api: httpx.AsyncClient) -> None:
    """Neither are its events duplicates, nor is anything a duplicate of them."""
    for query in ("?deduplicate=false", "", ""):
        await api.post(f"{PATH}/batch{query}", json={"interactions": [EVENT, EVENT]})
    counts = await lab.drain()
    assert (counts.stored, counts.duplicates) == (3, 3)
    rows = await lab.rows("SELECT _keyed FROM interactions FINAL ORDER BY _offset")
    assert rows == [(0,), (0,), (1,)]


async def test_rebuilt_claims_omit_events_exempt_from_deduplication(lab: Lab, api: httpx.AsyncClient) -> None:
    await api.post(f"{PATH}/batch?deduplicate=false", json={"interactions": [EVENT]})
    await lab.drain()
    await api.post(f"{PATH}/batch", json={"interactions": [EVENT]})
    counts = await lab.drain(key_prefix=f"{lab.settings.key_prefix}-again")
    assert (counts.stored, counts.duplicates) == (1, 0)


async def test_the_hint_and_the_verdict_of_a_repeat_agree(lab: Lab, api: httpx.AsyncClient) -> None:
    first = (await api.post(PATH, json=EVENT)).json()["interaction_id"]
    answer = await api.post(PATH, json=EVENT | {"position": 9})
    assert (answer.json()["deduplicated"], answer.json()["interaction_id"]) == (True, None)
    assert answer.headers["x-duplicate-of"] == first
    minted = answer.headers["x-interaction-id"]
    backfill = await api.post(PATH, json=EVENT | {"occurred_at": "2026-01-01T00:00:00Z"})
    assert backfill.json()["deduplicated"] is False, "a backfill bypasses what is remembered of live events"
    await lab.drain()
    assert (await api.get(f"{PATH}/{minted}/status")).json()["duplicate_of"] == first
    assert (await api.get(f"{PATH}/{first}/status")).json()["status"] == "stored"


async def test_an_idempotency_key_names_an_event_without_execution(lab: Lab, api: httpx.AsyncClient) -> None:
    event = {name: value for name, value in EVENT.items() if name != "execution_id"}
    key = {"Idempotency-Key": "order-1"}
    first = (await api.post(PATH, json=event, headers=key)).json()["interaction_id"]
    again = await api.post(PATH, json=event, headers=key)
    assert again.headers["x-duplicate-of"] == first
    elsewhere = await api.post(PATH, json=event, headers=key | {"X-Namespace": "shop"})
    assert elsewhere.json()["deduplicated"] is False
    for _ in range(2):
        batch = {"interactions": [event, event]}
        await api.post(f"{PATH}/batch", json=batch, headers={"Idempotency-Key": "cart"})
    counts = await lab.drain()
    assert (counts.stored, counts.duplicates) == (4, 3)
    assert_error(await api.post(PATH, json=event, headers={"Idempotency-Key": "x" * 513}), 422, "ValidationError")


async def test_prefer_wait_returns_the_final_outcome(lab: Lab) -> None:
    async with api_of(with_key(lab.settings, prefer_wait_ms=60_000)) as api, consuming(lab.settings):
        wait = {"Prefer": "respond-async, wait=60"}
        first = await api.post(PATH, json=EVENT, headers=wait)
        assert first.headers["preference-applied"] == "wait=60"
        stored = first.json()["interaction_id"]
        assert (await api.get(f"{PATH}/{stored}/status")).json()["status"] == "stored"
        # With its own time there is no hint, so the request waits for the verdict.
        same_time = {"occurred_at": first.json()["timestamp"]}
        again = await api.post(PATH, json=EVENT | same_time, headers=wait)
        assert again.json()["deduplicated"] is True
        assert (first.headers["x-outcome"], again.headers["x-outcome"]) == ("stored", "duplicate")
        assert again.headers["x-duplicate-of"] == stored
        got = await api.get(f"{PATH}/{again.headers['x-interaction-id']}", headers=wait)
        assert got.headers["preference-applied"] == "wait=60"


async def test_an_answer_before_the_verdict_says_so(shared_api: httpx.AsyncClient) -> None:
    """Also with a hint; the link is the address of the event's status."""
    for _ in range(2):
        answer = await shared_api.post(PATH, json=EVENT)
        assert answer.headers["x-outcome"] == "pending"
        minted = answer.headers["x-interaction-id"]
        assert answer.headers["link"] == f'<{PATH}/{minted}/status>; rel="status"'
        assert (await shared_api.get(answer.links["status"]["url"])).json()["status"] == "accepted"
    assert answer.json()["deduplicated"] is True
    for items, expected in (([EVENT, {}], "pending"), ([{}], None)):
        batch = await shared_api.post(f"{PATH}/batch", json={"interactions": items})
        assert batch.headers.get("x-outcome") == expected


@pytest.mark.parametrize(
    ("final", "status", "outcome"),
    [
        (RejectedFor("wrong_type", "position", "is no number", ""), 422, "rejected"),
        (Deleted(), 200, "deleted"),
        (None, 200, "pending"),
    ],
)
async def test_the_outcome_of_a_wait_is_named(lab: Lab, final: Outcome | None, status: int, outcome: str) -> None:
    async def wait_for(_namespace: str, _interaction_id: str, _seconds: float) -> Outcome | None:
        return final

    app = create_app(with_key(lab.settings), [CollectorModule(wait_for)])
    transport = httpx.ASGITransport(app)
    async with lifespan(app), httpx.AsyncClient(transport=transport, base_url="http://t", headers=BEARER) as api:
        answer = await api.post(PATH, json=EVENT, headers={"Prefer": "wait=1"})
    assert (answer.status_code, answer.headers["x-outcome"]) == (status, outcome)
    assert answer.headers["link"].startswith(f"<{PATH}/{answer.headers['x-interaction-id']}")


async def test_a_broker_that_does_not_answer_is_a_503(
    lab: Lab, api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail_all(_self: TopicWriter, records: Any) -> Any:
        return [Unavailable("Kafka at http://somewhere") for _ in records]

    monkeypatch.setattr(TopicWriter, "send", fail_all)
    for answer in (
        await api.post(PATH, json=EVENT),
        await api.post(f"{PATH}/batch", json={"interactions": [EVENT]}),
    ):
        error = assert_error(answer, 503, "ServiceUnavailableError")
        assert answer.headers["retry-after"] == "1"
        assert "may still arrive" in error["message"]
        assert "somewhere" not in answer.text

    async def refuse_all(_self: TopicWriter, records: Any) -> Any:
        return [RecordRefused("Kafka refused the record: too large") for _ in records]

    monkeypatch.setattr(TopicWriter, "send", refuse_all)
    assert_error(await api.post(PATH, json=EVENT), 422, "ValidationError", "refused_by_broker")


async def test_requests_waiting_for_kafka_are_bounded(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """By events and by bytes; their share of the budget is released afterwards."""
    released = asyncio.Event()
    real = TopicWriter.send

    async def held(self: TopicWriter, sent: Any) -> Any:
        await released.wait()
        return await real(self, sent)

    monkeypatch.setattr(TopicWriter, "send", held)
    limits = {"collector_in_flight": 4, "collector_in_flight_bytes": 1_000}
    async with api_of(with_key(lab.settings, **limits)) as api:
        tasks = [asyncio.create_task(api.post(PATH, json=EVENT | {"position": n})) for n in range(12)]
        refused = [await next(asyncio.as_completed(tasks))]

        async def only_held_requests_remain() -> bool:
            return sum(task.done() for task in tasks) == 8

        await eventually_async(only_held_requests_remain)
        assert [answer.status_code for answer in refused] == [503]
        large = await api.post(PATH, json=EVENT | {"metadata": {"x": "y" * 900}})
        assert "TALLY_COLLECTOR_IN_FLIGHT_BYTES" in assert_error(large, 503, "ServiceUnavailableError")["message"]
        released.set()
        answers = await asyncio.gather(*tasks)
        assert [answer.status_code for answer in answers].count(200) == 4
        assert (await api.post(PATH, json=EVENT)).status_code == 200


async def test_a_stop_answers_requests_in_flight(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    released = asyncio.Event()
    real = TopicWriter.send

    async def held(self: TopicWriter, sent: Any) -> Any:
        begun.set()
        await released.wait()
        return await real(self, sent)

    begun = asyncio.Event()
    monkeypatch.setattr(TopicWriter, "send", held)
    async with httpx.AsyncClient(headers=BEARER) as client:
        async with served(with_key(lab.settings)) as url:
            asking = asyncio.create_task(client.post(f"{url}{PATH}", json=EVENT))
            await begun.wait()
            asyncio.get_running_loop().call_later(0.2, released.set)
        assert (await asking).status_code == 200


@pytest.mark.parametrize(
    "item",
    [
        b'{"interaction_id":null,"feature_id":"f","interaction_type":["view"],"position":0}',
        b'{"feature_id":"f","interaction_type":["view"],"position":0,"interaction_id":null}',
        b'{"feature_id":"f","interaction_type":["view"],"position":0,"interaction\\u005fid":null}',
        b'{"feature_id":"f","interaction_type":["view"],"position":0,"\xc2\xb2":1}',
    ],
)
async def test_a_sender_cannot_choose_an_id_in_any_spelling(shared_api: httpx.AsyncClient, item: bytes) -> None:
    assert_error(await shared_api.post(PATH, content=item), 422, "ValidationError")
    answer = (await shared_api.post(f"{PATH}/batch", content=b'{"interactions":[%b]}' % item)).json()
    assert (answer["created"], answer["failed"]) == (0, 1)


async def test_every_accepted_event_is_found_by_its_id(lab: Lab, api: httpx.AsyncClient) -> None:
    """Blanks around and inside, a large one, one that only the validator is sure of: alone, in a batch, from a page."""
    plain = b'{"feature_id":"f","interaction_type":["view"],"position":0}'
    written = [
        plain,
        b"\n\t " + plain + b" \r\n",
        plain.replace(b",", b" ,\n  "),
        plain.replace(b":", b" : " + b" " * 20_000, 1),
        plain.replace(b'"f"', b'"\\u0066"'),
        plain.replace(b"}", b',"metadata":{"x":"%b"}}' % (b"y" * 60_000)),
        plain.replace(b"}", b',"metadata":{"interaction_id":"mine"}}'),
    ]
    ids = [(await api.post(PATH, content=each)).json()["interaction_id"] for each in written]
    answer = (await api.post(f"{PATH}/batch", content=b'{"interactions":[%b]}' % b",".join(written))).json()
    ids += [each["interaction_id"] for each in answer["results"]]
    token = PageToken.until(ROOT, "default", "https://a.example", 60).signed(hash_of(KEY))
    for each in written:
        sent = await api.post(f"{PATH}/beacon?token={token}", content=each, headers={"Origin": "https://a.example"})
        assert sent.status_code == 204
    counts = await lab.drain()
    assert (counts.stored, counts.rejected) == (3 * len(written), 0)
    for interaction_id in ids:
        assert (await api.get(f"{PATH}/{interaction_id}")).json()["feature_id"] == "f"
    async with reading(lab.settings, lab.settings.topic) as records:
        assert max(len(record.value or b"") for record in records) < 70_000, "blanks are not put on the topic"


async def test_a_page_gets_an_error_when_kafka_refuses_an_event(
    shared_api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = TopicWriter.send

    async def fail_last(self: TopicWriter, records: Any) -> Any:
        return [*await real(self, records[:-1]), Unavailable("one leader is away")]

    monkeypatch.setattr(TopicWriter, "send", fail_last)
    token = PageToken.until(ROOT, "default", "https://a.example", 60).signed(hash_of(KEY))
    for content in ([EVENT, EVENT], [EVENT, {}, EVENT]):
        sent = await shared_api.post(
            f"{PATH}/beacon?token={token}", json=content, headers={"Origin": "https://a.example"}
        )
        assert_error(sent, 503, "ServiceUnavailableError")
    batch = (await shared_api.post(f"{PATH}/batch", json={"interactions": [EVENT, EVENT]})).json()
    assert (batch["created"], batch["failed"]) == (1, 1)


async def test_a_page_with_too_many_events_learns_the_bound(shared_api: httpx.AsyncClient) -> None:
    """In each form of a page's body."""
    token = PageToken.until(ROOT, "default", "https://a.example", 60).signed(hash_of(KEY))
    for content in ([EVENT] * 1_001, {"interactions": [EVENT] * 1_001}):
        sent = await shared_api.post(
            f"{PATH}/beacon?token={token}", json=content, headers={"Origin": "https://a.example"}
        )
        assert "TALLY_HTTP_BATCH_ITEMS" in assert_error(sent, 422, "ValidationError")["message"]


async def test_an_unavailable_outcome_does_not_fail_an_accepted_event(lab: Lab) -> None:
    nowhere = with_key(lab.settings, clickhouse=SecretStr("http://127.0.0.1:1"), connect_timeout_ms=100)
    async with api_of(nowhere) as api:
        answer = await api.post(PATH, json=EVENT, headers={"Prefer": "wait=2"})
        assert answer.status_code == 200
        assert "preference-applied" not in answer.headers


async def test_a_kafka_client_that_failed_fatally_is_replaced(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's sequence numbers of a partition have a gap, so Kafka refuses every further record there."""
    async with api_of(with_key(lab.settings)) as api:
        real, skipped = TransactionManager.sequence_number, list[int]()

        def skip_numbers(self: TransactionManager, place: TopicPartition) -> int:
            if not skipped:
                self.increment_sequence_number(place, 7)
                skipped.append(7)
            return int(real(self, place))

        assert (await api.post(PATH, json=EVENT)).status_code == 200
        monkeypatch.setattr(TransactionManager, "sequence_number", skip_numbers)
        assert (await api.post(PATH, json=EVENT)).status_code == 503
        await until_all_ready(api, {"kafka", "clickhouse", "keys", "progress", "redis", "workers"})
        assert (await api.post(PATH, json=EVENT)).status_code == 200


async def test_items_are_counted_before_parsing(shared_api: httpx.AsyncClient) -> None:
    """Items are counted correctly for any strings and objects."""
    many = b'{"interactions":[%b1]}' % (b"1," * 4_000_000)
    error = assert_error(await shared_api.post(f"{PATH}/batch", content=many), 422, "ValidationError")
    assert error["details"]["validation_errors"][0]["type"] == "too_many"
    objects = [EVENT | {"feature_id": f"d{n},[,{{", "metadata": {"v": list(range(8_000))}} for n in range(20)]
    answer = (await shared_api.post(f"{PATH}/batch", json={"interactions": objects})).json()
    assert (answer["created"], answer["failed"]) == (20, 0)


async def test_many_batches_of_one_partition_all_arrive(lab: Lab, api: httpx.AsyncClient) -> None:
    batch = {"interactions": [EVENT | {"feature_id": f"d{n}", "metadata": {"x": "y" * 2_000}} for n in range(50)]}
    answers = await asyncio.gather(*(api.post(f"{PATH}/batch", json=batch) for _ in range(60)))
    assert {(answer.status_code, answer.json().get("created")) for answer in answers} == {(200, 50)}


async def test_a_large_batch_is_encoded_together(lab: Lab, api: httpx.AsyncClient) -> None:
    """Events that the scanner, the validator or nobody accepts, on all partitions, with and without an execution."""
    kinds: list[dict[str, Any]] = [
        {"execution_id": "e"},
        {"session_id": "s é"},
        {"user_id": '\u20ac "x"'},
        {},
        {"occurred_at": "2026-01-01 00:00:00.5 +0100"},
        {"position": -1},
    ]
    base = {"feature_id": "d", "interaction_type": ["view"], "position": 0}
    sent = [
        base | {name: f"{value}{n}" if name.endswith("_id") else value for name, value in kinds[n % 6].items()}
        for n in range(600)
    ]
    answer = (await api.post(f"{PATH}/batch", content=json.dumps({"interactions": sent}))).json()
    assert (answer["created"], answer["failed"]) == (500, 100)
    assert [each["index"] for each in answer["results"]] == list(range(600))
    assert [each["status"] for each in answer["results"]] == (["created"] * 5 + ["failed"]) * 100
    assert answer["errors"][0].startswith("5: position")
    counts = await lab.drain()
    assert (counts.stored, counts.moved, counts.rejected) == (500, 0, 0)
    by_id = {each["interaction_id"]: n for n, each in enumerate(answer["results"]) if each["interaction_id"]}
    rows = await lab.rows("SELECT interaction_id, execution_id, session_id, user_id FROM interactions")
    assert len(rows) == len(by_id) == 500
    for interaction_id, *found in rows:
        wanted = sent[by_id[interaction_id]]
        assert found == [wanted.get(name) for name in ("execution_id", "session_id", "user_id")]


async def test_a_large_batch_names_the_events_that_kafka_did_not_take(
    lab: Lab, api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = TopicWriter.send_encoded

    async def fail_first(self: TopicWriter, encoded: Any) -> Any:
        return [Unavailable("one leader is away"), *(await real(self, encoded))[1:]]

    monkeypatch.setattr(TopicWriter, "send_encoded", fail_first)
    batch = [EVENT | {"execution_id": f"e{n}"} for n in range(200)]
    answer = (await api.post(f"{PATH}/batch", json={"interactions": batch})).json()
    partitions = [partition_of(f"default:e{n}".encode(), lab.settings.partitions) for n in range(200)]
    wanted = ["failed" if each == min(partitions) else "created" for each in partitions]
    assert [each["status"] for each in answer["results"]] == wanted


async def test_a_large_batch_may_hold_large_events_only(lab: Lab, api: httpx.AsyncClient) -> None:
    """None of them is scanned: the validator decides about each."""
    batch = [EVENT | {"execution_id": f"e{n}", "metadata": {"x": "y" * 17_000}} for n in range(130)]
    answer = (await api.post(f"{PATH}/batch", json={"interactions": batch})).json()
    assert (answer["created"], answer["failed"]) == (130, 0)
