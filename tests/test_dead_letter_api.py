"""Dead letters over HTTP: counted, listed, shown, checked with a patch and replayed, each by its own tenant only."""

import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from readers.outcomes import REJECTION_REASONS
from runtime import kafka
from runtime.errors import Fatal
from runtime.http.key_store import KeyStore
from schemas.event_time import END_MS
from schemas.identity import mint_id
from schemas.letter import Letter, Origin
from schemas.wire import encode_headers
from tally.dead_letters import letter_store, service
from tally.dead_letters.description import MAX_PART_BYTES, MAX_VALUE_BYTES, text_of
from tally.dead_letters.letter_outcomes import LetterPosition
from tally.dead_letters.letter_store import MAX_KEPT, MAX_KEPT_BYTES, KeptLetters
from tally.dead_letters.service import DeadLetterService
from tests.chaos.traffic import LONG, NARROWED
from tests.http_lab import PATH, api_of, assert_error, with_key
from tests.lab import Lab, Place, as_json, reading
from tests.waiting import eventually_async

LETTERS = "/v1/dead-letters"
DEFAULT = encode_headers("default")
BAD = as_json("doc-1", "exec-1", position="first", user_id="ada")
FIX = {"position": 1}


@pytest.fixture
async def api(lab: Lab) -> AsyncIterator[httpx.AsyncClient]:
    """The API on this test's tables."""
    async with api_of(with_key(lab.settings, clock_skew_ms=60_000), "reader") as client:
        yield client


async def asked(api: httpx.AsyncClient, path: str, **query: Any) -> Any:
    answer = await api.get(f"{LETTERS}{path}", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def replayed(api: httpx.AsyncClient, **body: Any) -> Any:
    answer = await api.post(f"{LETTERS}/replay", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def put_bad(lab: Lab, *values: bytes, namespace: str = "default") -> list[Place]:
    """Put records of a namespace on the topic, and let a worker reject them."""
    places = [await lab.put(value, headers=encode_headers(namespace)) for value in values]
    await lab.drain()
    return places


async def test_letters_are_counted_by_reason_and_field(lab: Lab, api: httpx.AsyncClient) -> None:
    bad = [as_json(f"doc-{n}", f"exec-{n}", position="x") for n in range(3)]
    *_, newest, unknown = await put_bad(lab, *bad, as_json(extra=1))
    found = await asked(api, "/groups")
    assert (found["total"], found["waiting"]) == (4, 4)
    first, second = found["groups"]
    assert (first["reason"], first["field"], first["letters"], first["waiting"]) == ("wrong_type", "position", 3, 3)
    assert first["explanation"] == REJECTION_REASONS["wrong_type"]
    assert first["first"] <= first["last"]
    assert "valid integer" in first["example"]["message"]
    assert (second["example"]["partition"], second["example"]["offset"]) == unknown

    chosen = [f"{newest.partition}/{newest.offset}"]
    assert (await replayed(api, origins=chosen, patch=FIX, dry_run=False))["replayed"] == 1
    found = await asked(api, "/groups", reason="wrong_type")
    assert (found["total"], found["waiting"], found["groups"][0]["replayed"]) == (3, 2, 1)
    example = found["groups"][0]["example"]
    assert (example["partition"], example["offset"]) != newest, "a letter that waits is the example"
    for query, total in (
        ({"replayed": "no"}, 3),
        ({"replayed": "yes"}, 1),
        ({"field": "extra"}, 1),
        ({"field": ""}, 0),
    ):
        assert (await asked(api, "/groups", **query))["total"] == total, query
    assert await asked(api, "/groups", until=first["first"]) == {"groups": [], "total": 0, "waiting": 0}


async def test_pages_list_each_letter_once_newest_first(lab: Lab, api: httpx.AsyncClient) -> None:
    places = await put_bad(lab, *(as_json(f"doc-{n}", f"exec-{n}", position="x") for n in range(5)))
    listed, cursor = [], None
    while True:
        page = await asked(api, "", limit=2, **({"cursor": cursor} if cursor else {}))
        listed += page["letters"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert sorted((each["partition"], each["offset"]) for each in listed) == sorted(places)
    assert [each["timestamp"] for each in listed] == sorted((each["timestamp"] for each in listed), reverse=True)
    letter = listed[0]
    assert letter["origin"] == f"{lab.settings.topic}/{letter['partition']}/{letter['offset']}"
    assert (letter["replayed_as"], letter["replay_status"]) == (None, None)
    for query, count in (
        ({"reason": "wrong_type", "field": "position", "message": letter["message"]}, 5),
        ({"message": letter["message"][:-1]}, 0),
        ({"since": listed[-1]["timestamp"]}, 5),
        ({"until": listed[-1]["timestamp"]}, 0),
    ):
        assert len((await asked(api, "", **query))["letters"]) == count, query


async def test_a_letter_shows_its_record_and_all_problems_of_today(lab: Lab, api: httpx.AsyncClient) -> None:
    value = as_json("doc-1", "exec-1", position="first", user_id=7, more=1)
    ((partition, offset),) = await put_bad(lab, value)
    shown = await asked(api, f"/{partition}/{offset}")
    assert (shown["value"], shown["value_bytes"], shown["value_truncated"]) == (value.decode(), len(value), False)
    assert (shown["key"], shown["namespace"]) == ("k", "default")
    assert {"name": "tally-namespace", "value": "default"}.items() <= shown["headers"][0].items()
    assert {tuple(each["location"]) for each in shown["problems"]} == {("position",), ("user_id",), ("more",)}
    assert shown["problems_total"] == 3
    assert (shown["reason"], shown["replayed_as"]) == ("wrong_type", None)


async def test_large_and_binary_parts_of_a_letter_are_bounded(lab: Lab, api: httpx.AsyncClient) -> None:
    large = as_json(position="x", metadata={"text": "é" * MAX_VALUE_BYTES})
    headers = [*DEFAULT, ("app", b"\xff" * (MAX_PART_BYTES + 1)), *[("h", b"")] * 200]
    place = await lab.put(large, key=b"k" * (MAX_PART_BYTES + 1), headers=headers)
    await lab.drain()
    shown = await asked(api, f"/{place.partition}/{place.offset}")
    assert large.decode().startswith(shown["value"])
    assert MAX_VALUE_BYTES - 1 <= len(shown["value"].encode()) <= MAX_VALUE_BYTES
    assert (shown["value_truncated"], shown["value_bytes"]) == (True, len(large))
    assert (len(shown["key"]), shown["key_truncated"]) == (MAX_PART_BYTES, True)
    assert (len(shown["headers"]), shown["headers_total"]) == (100, len(headers))
    (app,) = [each for each in shown["headers"] if each["name"] == "app"]
    assert (app["value"], app["truncated"]) == (None, True)
    checked = (await api.post(f"{LETTERS}/{place.partition}/{place.offset}/check", json={"patch": FIX})).json()
    assert checked["patched_truncated"] is True
    assert [each["type"] for each in checked["problems"]] == ["too_large"]


async def test_a_check_says_what_a_replay_would_say(lab: Lab, api: httpx.AsyncClient) -> None:
    ((partition, offset),) = await put_bad(lab, BAD)
    path = f"{LETTERS}/{partition}/{offset}/check"
    bad = (await api.post(path, json={})).json()
    assert (bad["valid"], bad["warnings"]) == (False, [])
    assert [each["location"] for each in bad["problems"]] == [["position"]]
    good = (await api.post(path, json={"patch": {"position": 4, "user_id": None}})).json()
    assert (good["valid"], good["problems"]) == (True, [])
    assert "no_feature_uri" in {each["code"] for each in good["warnings"]}
    await replayed(api, patch={"position": 4, "user_id": None}, dry_run=False)
    (record,) = [each for each in await lab_values(lab) if b'"position":4' in each]
    assert good["patched"] == record.decode()


async def lab_values(lab: Lab) -> list[bytes]:
    async with reading(lab.settings, lab.settings.topic) as records:
        return [each.value or b"" for each in records]


async def test_checks_of_a_letter_read_no_store_again(
    lab: Lab, api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    ((partition, offset),) = await put_bad(lab, BAD)
    path = f"{LETTERS}/{partition}/{offset}/check"
    assert (await api.post(path, json={"patch": FIX})).json()["valid"] is True

    def away(*_anything: Any) -> Any:
        raise AssertionError("read again")

    monkeypatch.setattr(letter_store, "read_letters", away)
    for patch, valid in ((FIX, True), ({"position": -1}, False)):
        assert (await api.post(path, json={"patch": patch})).json()["valid"] is valid


@pytest.mark.parametrize(
    "body",
    ['{"patch": {"x": "\\ud800"}}', '{"patch": {"document_score": 1e999}}', '{"patch": []}', '{"path": {}}', "{"],
)
async def test_an_invalid_patch_is_refused(lab: Lab, api: httpx.AsyncClient, body: str) -> None:
    ((partition, offset),) = await put_bad(lab, BAD)
    for path in (f"{LETTERS}/{partition}/{offset}/check", f"{LETTERS}/replay"):
        answer = await api.post(path, content=body)
        assert answer.status_code == (400 if body == "{" else 422), answer.text
        assert answer.json()["error"]["details"]["validation_errors"][0]["location"][0] == "body"


async def test_a_replay_is_a_dry_run_by_default(lab: Lab, api: httpx.AsyncClient) -> None:
    await put_bad(lab, BAD, as_json(extra=1))
    ends = await lab.log_ends()
    tried = await replayed(api, patch=FIX)
    assert (tried["dry_run"], tried["letters"], tried["would_pass"], tried["replayed"]) == (True, 2, 1, None)
    assert (tried["still_rejected"], tried["why"], tried["more"]) == (1, {"unknown_field extra": 1}, False)
    assert tried["replayed_as"] == []
    assert await lab.log_ends() == ends


async def test_a_replayed_letter_is_stored_and_its_status_follows(
    lab: Lab, api: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    await put_bad(lab, BAD)
    with caplog.at_level(logging.INFO, "tally.api"):
        done = await replayed(api, reason="wrong_type", patch=FIX, dry_run=False)
    assert (done["letters"], done["replayed"], done["still_rejected"], done["settled"]) == (1, 1, 0, 0)
    (named,) = done["replayed_as"]
    (logged,) = [each.getMessage() for each in caplog.records if "replayed by key" in each.getMessage()]
    assert "'default'" in logged
    assert "wrong_type" in logged
    assert "ada" not in logged
    (letter,) = (await asked(api, ""))["letters"]
    assert named == {"origin": f"{letter['partition']}/{letter['offset']}", "interaction_id": letter["replayed_as"]}
    assert letter["replay_status"] == "accepted"
    await lab.drain()
    (letter,) = (await asked(api, ""))["letters"]
    assert letter["replay_status"] == "stored"
    again = await replayed(api, patch=FIX, dry_run=False)
    assert (again["letters"], again["replayed"], again["settled"]) == (1, 0, 1)
    await api.delete(f"{PATH}/{letter['replayed_as']}")
    assert (await asked(api, ""))["letters"][0]["replay_status"] == "deleted"


async def test_a_replay_that_is_rejected_again_is_another_letter(lab: Lab, api: httpx.AsyncClient) -> None:
    """The table refuses the replayed event. Its letter keeps the id of the replay, and so does a replay of that."""
    await put_bad(lab, BAD)
    await lab.database.command(NARROWED)
    await replayed(api, patch={"position": 0, "metadata": LONG}, dry_run=False)
    await lab.drain()
    second, first = (await asked(api, ""))["letters"]
    assert (first["replay_status"], second["replay_status"]) == ("rejected", None)
    assert first["replayed_as"] == second["interaction_id"]
    await lab.database.command("ALTER TABLE interactions MODIFY COLUMN metadata String")
    done = await replayed(api, patch={"metadata": None}, dry_run=False)
    assert (done["letters"], done["replayed"], done["settled"]) == (2, 1, 1)
    assert [each["replay_status"] for each in (await asked(api, ""))["letters"]] == ["accepted", "accepted"]
    await lab.drain()
    assert [each["replay_status"] for each in (await asked(api, ""))["letters"]] == ["stored", "stored"]
    assert await lab.count("interactions") == 1


async def test_repeated_replays_reach_every_letter(lab: Lab) -> None:
    """The oldest letters stay invalid: a cursor passes them."""
    async with api_of(with_key(lab.settings, replay_letters=2), "reader") as api:
        await put_bad(lab, *(as_json(f"doc-{n}", f"exec-{n}", extra=1) for n in range(3)))
        await put_bad(lab, *(as_json(f"doc-{n}", f"exec-{n}", position="x") for n in range(4)))
        sums, cursor = {"letters": 0, "replayed": 0, "still_rejected": 0}, None
        for _ in range(4):
            done = await replayed(api, patch=FIX, dry_run=False, **({"cursor": cursor} if cursor else {}))
            sums = {name: count + done[name] for name, count in sums.items()}
            cursor = done["next_cursor"]
            assert done["more"] is (cursor is not None)
        assert cursor is None
        assert sums == {"letters": 7, "replayed": 4, "still_rejected": 3}
        await lab.drain()
        assert await lab.count("interactions") == 4


async def test_a_deleted_event_has_no_letter(lab: Lab, api: httpx.AsyncClient) -> None:
    interaction_id = mint_id()
    ((partition, offset),) = await put_bad(lab, as_json(position="x", interaction_id=interaction_id))
    assert (await asked(api, f"/{partition}/{offset}"))["interaction_id"] == interaction_id
    assert (await api.delete(f"{PATH}/{interaction_id}")).status_code == 200
    assert_error(await api.get(f"{LETTERS}/{partition}/{offset}"), 404, "NotFoundError")
    assert (await asked(api, ""))["letters"] == []
    assert (await asked(api, "/groups"))["total"] == 0
    assert (await replayed(api, patch=FIX, dry_run=False))["letters"] == 0


async def test_a_letter_that_kafka_lost_is_reported(lab: Lab, api: httpx.AsyncClient) -> None:
    ((partition, offset),) = await put_bad(lab, BAD)
    elsewhere = f"{lab.settings.topic}-empty"
    settings = lab.settings.model_copy(update={"dead_letter_topic": elsewhere})
    await kafka.create_topics(settings)
    async with api_of(with_key(settings), "reader") as other:
        assert_error(await other.get(f"{LETTERS}/{partition}/{offset}"), 404, "NotFoundError", "expired")
        done = await replayed(other, patch=FIX)
        assert (done["letters"], done["missing"], done["would_pass"]) == (1, 1, 0)


async def test_a_tenant_reaches_only_its_own_letters(lab: Lab, api: httpx.AsyncClient) -> None:
    ((partition, offset),) = await put_bad(lab, BAD, namespace="theirs")
    await lab.put(b"no json", headers=encode_headers("theirs"))
    await lab.drain()
    unread = f"{LETTERS}/{partition}/{offset}"
    assert (await asked(api, ""))["letters"] == []
    assert (await asked(api, "/groups"))["total"] == 0
    assert_error(await api.get(unread), 404, "NotFoundError")
    assert_error(await api.post(f"{unread}/check", json={}), 404, "NotFoundError")
    assert (await replayed(api, origins=[f"{partition}/{offset}"], patch=FIX, dry_run=False))["letters"] == 0
    for path in (f"{unread}/check", f"{LETTERS}/replay"):
        answer = await api.post(path, json={"as_namespace": "theirs"})
        assert_error(answer, 403, "ForbiddenError")
    async with api_of(with_key(lab.settings, api_namespaces=("theirs",)), "reader") as theirs:
        assert (await theirs.post(f"{unread}/check", json={"patch": FIX})).json()["valid"] is True
    assert_error(await api.post(f"{unread}/check", json={}), 404, "NotFoundError")


async def test_a_kept_letter_is_shown_to_its_namespace_only(lab: Lab, api: httpx.AsyncClient) -> None:
    ((partition, offset),) = await put_bad(lab, BAD, namespace="shop")
    path = f"{LETTERS}/{partition}/{offset}/check"
    assert (await api.post(path, json={}, headers={"X-Namespace": "shop"})).status_code == 200
    assert_error(await api.post(path, json={}), 404, "NotFoundError")


async def test_letters_of_nobody_need_the_admin_and_a_namespace(lab: Lab, api: httpx.AsyncClient) -> None:
    place = await lab.put(b'[{"feature_id": "d"}]', headers=DEFAULT)
    unnamed = await lab.put(as_json("doc-2", "exec-2"), headers=[("tally-namespace", b"\xff")])
    await lab.drain()
    assert (await asked(api, "/groups"))["total"] == 0
    assert {each["offset"] for each in (await asked(api, "", unattributed=True))["letters"]} >= {place.offset}
    path = f"/{unnamed.partition}/{unnamed.offset}"
    shown = await asked(api, path, unattributed=True)
    assert (shown["reason"], shown["problems"]) == ("bad_header", [])
    refused = await api.post(f"{LETTERS}/replay", json={"unattributed": True})
    assert_error(refused, 422, "ValidationError")
    done = await replayed(api, unattributed=True, as_namespace="shop", dry_run=False)
    assert (done["letters"], done["replayed"], done["why"]) == (2, 1, {"not_an_object ": 1})
    await lab.drain()
    assert await lab.rows("SELECT namespace FROM interactions") == [("shop",)]
    statuses = [each["replay_status"] for each in (await asked(api, "", unattributed=True))["letters"]]
    assert sorted(map(str, statuses)) == ["None", "stored"]


async def test_scopes_are_required(lab: Lab, api: httpx.AsyncClient) -> None:
    ((partition, offset),) = await put_bad(lab, BAD)
    store = KeyStore(lab.database)
    _, key = await store.create("a reader's", ("read",), ("default",))
    reader = {"Authorization": f"Bearer {key}"}

    async def counts() -> bool:
        return (await api.get(LETTERS, headers=reader)).status_code == 200

    await eventually_async(counts)
    assert (await api.post(f"{LETTERS}/replay", json={"patch": FIX}, headers=reader)).json()["would_pass"] == 1
    real = await api.post(f"{LETTERS}/replay", json={"patch": FIX, "dry_run": False}, headers=reader)
    assert_error(real, 403, "ForbiddenError")
    for path in ("", "/groups", f"/{partition}/{offset}"):
        answer = await api.get(f"{LETTERS}{path}", params={"unattributed": True}, headers=reader)
        assert_error(answer, 403, "ForbiddenError")
        answer = await api.get(f"{LETTERS}{path}", headers={"Authorization": ""})
        assert_error(answer, 401, "UnauthorizedError")
    answer = await api.post(f"{LETTERS}/replay", json={"unattributed": True, "as_namespace": "default"}, headers=reader)
    assert_error(answer, 403, "ForbiddenError")


async def test_an_invalid_request_is_refused(api: httpx.AsyncClient) -> None:
    for query in (
        {"reason": "x"},
        {"replayed": "maybe"},
        {"cursor": "x"},
        {"limit": 0},
        {"since": "yesterday"},
        {"a": 1},
    ):
        assert_error(await api.get(LETTERS, params=query), 422, "ValidationError")
    for path in ("/a/1", f"/{2**31}/1", f"/1/{2**63}"):
        assert_error(await api.get(f"{LETTERS}{path}"), 422, "ValidationError")
    bodies: list[dict[str, Any]] = [
        *({"origins": ["1"]}, {"origins": [f"{2**31}/1"]}, {"origins": []}),
        *({"cursor": "1/2"}, {"dryrun": True}),
    ]
    for body in bodies:
        assert_error(await api.post(f"{LETTERS}/replay", json=body), 422, "ValidationError")


async def test_without_kafka_the_setting_is_named(lab: Lab) -> None:
    ((partition, offset),) = await put_bad(lab, BAD)
    async with api_of(with_key(lab.settings, kafka=""), "reader") as api:
        assert len((await asked(api, ""))["letters"]) == 1
        for answer in (
            await api.get(f"{LETTERS}/{partition}/{offset}"),
            await api.post(f"{LETTERS}/{partition}/{offset}/check", json={}),
            await api.post(f"{LETTERS}/replay", json={}),
        ):
            assert "TALLY_KAFKA" in assert_error(answer, 503, "ServiceUnavailableError")["message"]


async def test_reads_and_replays_are_bounded(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    ((partition, offset),) = await put_bad(lab, BAD)
    async with api_of(with_key(lab.settings, letter_reads_in_flight=0), "reader") as api:
        for answer in (await api.get(f"{LETTERS}/{partition}/{offset}"), await api.post(f"{LETTERS}/replay", json={})):
            message = assert_error(answer, 503, "ServiceUnavailableError")["message"]
            assert "TALLY_LETTER_READS_IN_FLIGHT" in message
    async with api_of(with_key(lab.settings), "reader") as api:
        waiting = DeadLetterService._replay

        async def meanwhile(service: Any, owner: Any, request: Any) -> Any:
            answer = await api.post(f"{LETTERS}/replay", json={"dry_run": False})
            assert "a replay runs" in assert_error(answer, 503, "ServiceUnavailableError")["message"]
            return await waiting(service, owner, request)

        monkeypatch.setattr(DeadLetterService, "_replay", meanwhile)
        assert (await replayed(api, patch=FIX, dry_run=False))["replayed"] == 1


@pytest.mark.parametrize(
    ("error", "words"), [(TimeoutError(), "TALLY_LIST_TIMEOUT_MS"), (Fatal("refused by Kafka"), "deploy/access")]
)
async def test_reads_that_fail_are_explained(
    lab: Lab, api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    ((partition, offset),) = await put_bad(lab, BAD)

    async def failing(*_anything: Any) -> AsyncIterator[Letter]:
        for letter in list[Letter]():
            yield letter
        raise error

    for module in (letter_store, service):
        monkeypatch.setattr(module, "read_letters", failing)
    for answer in (await api.get(f"{LETTERS}/{partition}/{offset}"), await api.post(f"{LETTERS}/replay", json={})):
        assert words in assert_error(answer, 503, "ServiceUnavailableError")["message"]


@given(st.integers(0, END_MS - 1), st.integers(0, 2**31 - 1), st.integers(0, 2**63 - 1))
def test_a_written_position_is_read_back(append_ms: int, partition: int, offset: int) -> None:
    position = LetterPosition(append_ms, partition, offset)
    assert LetterPosition.parse(str(position)) == position


@given(st.text(max_size=30))
def test_any_other_text_is_no_position(text: str) -> None:
    try:
        assert str(LetterPosition.parse(text)).replace("0", "") == text.replace("0", "")
    except ValueError as error:
        assert "cursor" in str(error)


@given(st.text(), st.integers(0, 40))
def test_a_cut_text_is_a_prefix(text: str, most: int) -> None:
    cut = text_of(text.encode(errors="replace"), most)
    assert cut is not None
    assert text.encode(errors="replace").decode().startswith(cut)
    assert len(cut.encode()) <= most < len(cut.encode()) + 4 or cut.encode() == text.encode(errors="replace")


def test_kept_letters_are_bounded() -> None:
    kept = KeptLetters()

    def letter(size: int) -> Letter:
        return Letter(Origin("t", 0, 0), 0, "r", "", "", "n", "", None, b"x" * size, ())

    for number in range(MAX_KEPT + 10):
        kept.keep(("n", 0, number), letter(1))
    assert kept.get(("n", 0, 9)) is None
    assert kept.get(("n", 0, 10)) is not None
    kept.keep(("n", 1, 0), letter(MAX_KEPT_BYTES // 4 + 1))
    assert kept.get(("n", 1, 0)) is None, "a large letter would push out all others"
    for number in range(5):
        kept.keep(("n", 2, number), letter(MAX_KEPT_BYTES // 4))
    assert [kept.get(("n", 2, number)) is None for number in range(5)] == [True, False, False, False, False]
