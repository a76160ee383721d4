"""Events of every outcome are found by their ids, in one list, and each has one page about it."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from readers.event_cursor import write_place
from readers.event_rows import EventPlace
from readers.outcomes import DUPLICATE_REASONS, REJECTION_REASONS
from schemas.identity import mint_id
from schemas.wire import encode_headers
from tests.http_lab import PATH, api_of, assert_error, with_key
from tests.lab import Lab, as_json, click

ADA: dict[str, Any] = {"user_id": "ada", "session_id": "s-1", "retriever_id": "dense"}


@pytest.fixture
async def api(lab: Lab) -> AsyncIterator[httpx.AsyncClient]:
    """The API on this test's tables."""
    async with api_of(with_key(lab.settings), "reader") as client:
        yield client


async def found(api: httpx.AsyncClient, **query: Any) -> list[dict[str, Any]]:
    """All pages."""
    events: list[dict[str, Any]] = []
    while True:
        answer = await api.get("/v1/events", params=query)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        events += page["events"]
        if page["next_cursor"] is None:
            return events
        query["cursor"] = page["next_cursor"]


async def details(api: httpx.AsyncClient, interaction_id: str) -> dict[str, Any]:
    """The state of one event."""
    answer = await api.get(f"/v1/events/{interaction_id}")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


class Traffic:
    """Events of each outcome: a stored one, its duplicate, a rejected and a deleted one."""

    stored: str
    duplicate: str
    rejected: str
    deleted: str

    @classmethod
    async def of(cls, lab: Lab, api: httpx.AsyncClient) -> "Traffic":
        """Put them on the topic, in this order, and let a worker decide."""
        self = cls()
        snapshot = {"text": "Red Shoes"}
        first, again, gone = await lab.emit(
            click(query_snapshot=snapshot, **ADA),
            click(query_snapshot=snapshot, **ADA),
            click("doc-2", "exec-2", **ADA),
        )
        self.stored, self.duplicate, self.deleted = (each.interaction_id for each in (first, again, gone))
        self.rejected = mint_id()
        bad = as_json(position=-1, execution="exec-3", interaction_id=self.rejected, user_id="ada")
        await lab.put(bad, headers=encode_headers("default"))
        await lab.put(as_json(execution="exec-9", user_id="ada"), headers=encode_headers("shop"))
        await lab.drain()
        await api.delete(f"{PATH}/{self.deleted}")
        return self


async def test_one_list_has_events_of_every_outcome(lab: Lab, api: httpx.AsyncClient) -> None:
    traffic = await Traffic.of(lab, api)
    events = await found(api)
    assert [(each["interaction_id"], each["verdict"]) for each in events] == [
        (traffic.rejected, "rejected"),
        (traffic.deleted, "deleted"),
        (traffic.duplicate, "duplicate"),
        (traffic.stored, "stored"),
    ]
    rejected, deleted, duplicate, stored = events
    assert (stored["query"], stored["interaction_type"], stored["position"]) == ("Red Shoes", ["click"], 0)
    assert (stored["user_id"], stored["session_id"], stored["retriever_id"]) == ("ada", "s-1", "dense")
    assert stored["topic"] == lab.settings.topic
    assert stored["event_time"] == stored["timestamp"]
    assert (duplicate["duplicate_of"], duplicate["reason"]) == (traffic.stored, "same_key")
    assert duplicate["explanation"] == DUPLICATE_REASONS["same_key"]
    assert (rejected["field"], rejected["explanation"]) == ("position", REJECTION_REASONS["number_out_of_range"])
    content = {name for name, value in deleted.items() if value is not None}
    assert content == {"interaction_id", "verdict", "timestamp", "topic", "partition", "offset", "execution_id"}


async def test_an_event_is_found_by_what_it_shows(lab: Lab, api: httpx.AsyncClient) -> None:
    traffic = await Traffic.of(lab, api)
    stored, duplicate, rejected, deleted = traffic.stored, traffic.duplicate, traffic.rejected, traffic.deleted
    events = {each["interaction_id"]: each for each in await found(api)}
    for query, expected in (
        ({"any_id": stored}, [stored]),
        ({"any_id": "ada"}, [rejected, duplicate, stored]),
        ({"any_id": "s-1"}, [stored]),
        ({"any_id": "exec-2"}, [deleted]),
        ({"any_id": "exec-1"}, [duplicate, stored]),
        ({"interaction_id": duplicate}, [duplicate]),
        ({"execution_id": "exec-2"}, [deleted]),
        ({"user_id": "ada"}, [rejected, duplicate, stored]),
        ({"session_id": "s-1"}, [stored]),
        ({"feature_id": "doc-1"}, [stored]),
        ({"feature_id": "doc-2"}, []),
        ({"interaction_type": "click"}, [stored]),
        ({"retriever_id": "dense"}, [stored]),
        ({"verdict": "duplicate, rejected"}, [rejected, duplicate]),
        ({"verdict": "deleted"}, [deleted]),
        ({"verdict": "stored", "execution_id": "exec-2"}, []),
        ({"verdict": "moved"}, []),
        ({"limit": 1}, [rejected, deleted, duplicate, stored]),
        ({"since": events[stored]["timestamp"]}, [rejected, deleted, duplicate, stored]),
        ({"until": events[stored]["timestamp"]}, []),
    ):
        assert [each["interaction_id"] for each in await found(api, **query)] == expected, query


async def test_a_deleted_duplicate_shows_no_content(lab: Lab, api: httpx.AsyncClient) -> None:
    traffic = await Traffic.of(lab, api)
    await api.delete(f"{PATH}/{traffic.duplicate}")
    (event,) = await found(api, interaction_id=traffic.duplicate)
    assert (event["verdict"], event["duplicate_of"], event["user_id"], event["reason"]) == ("deleted", None, None, None)
    assert traffic.duplicate not in {each["interaction_id"] for each in await found(api, user_id="ada")}


async def test_a_moved_event_is_listed_by_its_copy_unless_asked(lab: Lab, api: httpx.AsyncClient) -> None:
    wrong = 3  # exec-1 of namespace default belongs elsewhere
    record = as_json(user_id="ada")
    landed = await lab.put(record, partition=wrong)
    await lab.drain()
    await lab.drain()
    events = await found(api)
    if len(await lab.rows("SELECT 1 FROM outcomes WHERE verdict = 'moved'")) == 0:
        pytest.fail("the partition is the right one")
    (copy,) = events
    (moved,) = await found(api, verdict="moved")
    assert copy["verdict"] == "stored"
    assert moved["interaction_id"] == copy["interaction_id"]
    assert (moved["partition"], moved["offset"]) == (wrong, landed.offset)
    assert moved["moved_to"] == f"{copy['partition']}/{copy['offset']}"


async def test_the_answer_says_what_a_search_cannot_find(lab: Lab, api: httpx.AsyncClient) -> None:
    for query, words in (
        ({"session_id": "s"}, ["duplicates, rejections and moves are not found by session_id", "deleted events"]),
        ({"any_id": "s"}, ["not found by a session_id"]),
        ({"verdict": "stored", "session_id": "s"}, []),
        ({"execution_id": "e"}, []),
    ):
        notes = (await api.get("/v1/events", params=query)).json()["notes"]
        assert len(notes) == len(words)
        assert all(each in note for each, note in zip(words, notes, strict=True)), notes


async def test_an_invalid_search_is_refused(api: httpx.AsyncClient) -> None:
    for query, named in (
        ({"verdict": "lost"}, "query.verdict: 'lost' is no verdict; write some of stored, duplicate"),
        ({"verdict": ""}, "query.verdict"),
        ({"interaction_type": "clic"}, "query.interaction_type: is none of impression"),
        ({"user": "ada"}, "query.user"),
        ({"cursor": "x"}, "query.cursor: is not a cursor of this call"),
        ({"cursor": write_place(EventPlace("int_", "t", 0, 0))}, "query.cursor"),
        ({"cursor": write_place(EventPlace(mint_id(), "t", -1, 0))}, "query.cursor"),
        ({"limit": 1_001}, "query.limit"),
        ({"user_id": "x" * 513}, "query.user_id"),
        ({"since": "yesterday"}, "query.since"),
    ):
        error = assert_error(await api.get("/v1/events", params=query), 422, "ValidationError")
        assert error["message"].startswith(named), error["message"]


async def test_details_say_why_and_what_comes_next(lab: Lab, api: httpx.AsyncClient) -> None:
    traffic = await Traffic.of(lab, api)
    stored = await details(api, traffic.stored)
    assert (stored["status"], stored["event"]["verdict"]) == ("stored", "stored")
    assert stored["record"] == (await api.get(f"{PATH}/{traffic.stored}")).json()
    assert [each["interaction_id"] for each in stored["duplicates"]] == [traffic.duplicate]
    assert stored["duplicates_total"] == 1
    key = stored["deduplication"]
    assert (key["rule"], key["execution_id"], key["feature_id"], key["interaction_type"]) == (
        "execution",
        "exec-1",
        "doc-1",
        ["click"],
    )
    assert len(key["key"]) == 32
    duplicate = await details(api, traffic.duplicate)
    assert (duplicate["status"], duplicate["record"]) == ("duplicate", None)
    assert duplicate["owner"]["interaction_id"] == traffic.stored
    assert duplicate["deduplication"] == key
    assert traffic.stored in duplicate["explanation"]
    assert DUPLICATE_REASONS["same_key"] in duplicate["explanation"]
    rejected = await details(api, traffic.rejected)
    event = rejected["event"]
    assert rejected["dead_letter"] == f"{event['partition']}/{event['offset']}"
    assert "position: " in rejected["explanation"]
    assert "replay" in rejected["next"]
    deleted = await details(api, traffic.deleted)
    assert (deleted["status"], deleted["event"]["feature_id"], deleted["deduplication"]) == ("deleted", None, None)


async def test_details_of_an_event_in_flight_have_the_lag(lab: Lab) -> None:
    settings = with_key(lab.settings, delivery_timeout_ms=60_000)
    (receipt,) = await lab.emit(click())
    async with api_of(settings, "reader") as api:
        waiting = await details(api, receipt.interaction_id)
        assert (waiting["status"], waiting["event"], waiting["dead_letter"]) == ("accepted", None, None)
        assert set(waiting["in_flight"]) == {"records", "partition_lag", "lag_ms"}
    async with api_of(with_key(lab.settings), "reader") as api:
        assert_error(await api.get("/v1/events/int_1"), 404, "NotFoundError", "unknown")


async def test_another_tenant_sees_nothing(lab: Lab, api: httpx.AsyncClient) -> None:
    traffic = await Traffic.of(lab, api)
    shop = {"X-Namespace": "shop"}
    (event,) = (await api.get("/v1/events", headers=shop)).json()["events"]
    assert event["execution_id"] == "exec-9"
    for interaction_id in (traffic.stored, traffic.duplicate, traffic.rejected, traffic.deleted):
        page = await api.get("/v1/events", params={"any_id": interaction_id}, headers=shop)
        assert page.json()["events"] == []
        answer = (await api.get(f"/v1/events/{interaction_id}", headers=shop)).json()
        assert answer["status"] in ("accepted", "unknown")
        assert (answer["event"], answer["record"], answer["duplicates"], answer["owner"]) == (None, None, [], None)
