"""Dead letters over HTTP: counted, listed, shown, and checked with a patch."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from readers.outcomes import REJECTION_REASONS
from runtime import kafka
from schemas.event_time import END_MS
from schemas.identity import mint_id
from schemas.letter import Letter, Origin
from tally.dead_letters import letter_store
from tally.dead_letters.description import MAX_PART_BYTES, MAX_VALUE_BYTES, text_of
from tally.dead_letters.letter_outcomes import LetterPosition
from tally.dead_letters.letter_store import MAX_KEPT, MAX_KEPT_BYTES, KeptLetters
from tests.dead_letter_lab import BAD, DEFAULT, FIX, LETTERS, asked, put_bad, replayed
from tests.http_lab import PATH, api_of, assert_error, with_key
from tests.lab import Lab, as_json, reading


@pytest.fixture
async def api(lab: Lab) -> AsyncIterator[httpx.AsyncClient]:
    """The API on this test's tables."""
    async with api_of(with_key(lab.settings, clock_skew_ms=60_000), "reader") as client:
        yield client


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
