"""Deletion: at once and permanent, for stored, in-flight, repeated and replayed events."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from consumers import failpoints
from consumers.erasure import MAX_DELETIONS
from producers.producer import Receipt
from readers.audit import audit
from readers.overview import count_verdicts
from runtime.deletions import Deletion, Deletions
from runtime.settings import Settings
from schemas.identity import derive_foreign_id, mint_id
from schemas.wire import encode_headers
from tally.replay import Replay
from tests.crashes import Crashed, at_failpoint
from tests.http_lab import PATH, api_of, assert_error, with_key
from tests.lab import Lab, as_json, click
from tests.reports_lab import only

PRIVATE: dict[str, Any] = {
    "user_id": "ada-lovelace",
    "session_id": "s-1",
    "metadata": {"mail": "ada@example.org"},
    "query_snapshot": {"text": "private"},
    "document_score": 0.5,
    "retriever_id": "r",
    "feature_uri": "tally://x",
    "position": 3,
    "result_set_size": 4,
}


@pytest.fixture
def api_settings(lab: Lab) -> Settings:
    return with_key(lab.settings)


@pytest.fixture
async def api(api_settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """The API on this test's tables."""
    async with api_of(api_settings) as client:
        yield client


async def delete(api: httpx.AsyncClient, interaction_id: str) -> None:
    answer = await api.delete(f"{PATH}/{interaction_id}")
    assert (answer.status_code, answer.json()["success"]) == (200, True), answer.text


async def assert_gone(lab: Lab, api: httpx.AsyncClient, interaction_id: str) -> None:
    """From lookups, lists and views."""
    error = assert_error(await api.get(f"{PATH}/{interaction_id}"), 404, "NotFoundError", "deleted")
    assert error["message"] == f"interaction '{interaction_id}' is deleted"
    assert (await api.get(f"{PATH}/{interaction_id}/status")).json()["status"] == "deleted"
    listed = (await api.post(f"{PATH}/list", params={"include_total": True})).json()
    assert interaction_id not in [each["interaction_id"] for each in listed["results"]]
    assert listed["pagination"]["total"] == len(listed["results"])
    assert sum(count for (count,) in await only(lab, "types", "interactions")) == len(listed["results"])


async def assert_audited(lab: Lab, stored: int, duplicates: int, deleted: int) -> None:
    parts = [each async for each in audit(lab.settings, lab.database)]
    assert all(each.balances for each in parts), parts
    found = [sum(getattr(each, name) for each in parts) for name in ("stored", "duplicates", "deleted", "in_flight")]
    assert found == [stored, duplicates, deleted, 0]
    counts = await count_verdicts(lab.settings, lab.database)
    assert (counts.stored, counts.duplicates, counts.deleted) == (stored, duplicates, deleted)


async def test_a_deleted_event_is_hidden_at_once(lab: Lab, api: httpx.AsyncClient) -> None:
    kept, gone = await lab.emit(click("kept"), click("gone", **PRIVATE))
    await lab.drain()
    await delete(api, gone.interaction_id)
    await assert_gone(lab, api, gone.interaction_id)
    await delete(api, gone.interaction_id)
    await assert_gone(lab, api, gone.interaction_id)
    assert (await api.get(f"{PATH}/{kept.interaction_id}")).status_code == 200
    await assert_audited(lab, stored=1, duplicates=0, deleted=1)


async def test_a_merge_removes_the_data_of_a_deleted_event(lab: Lab, api: httpx.AsyncClient) -> None:
    (gone,) = await lab.emit(click("gone", **PRIVATE))
    await lab.drain()
    await delete(api, gone.interaction_id)
    await lab.database.command("OPTIMIZE TABLE interactions FINAL")
    (row,) = await lab.rows("SELECT * FROM interactions")
    for private in ("ada-lovelace", "s-1", "private", "0.5", "tally://x"):
        assert private not in str(row), row
    await assert_gone(lab, api, gone.interaction_id)
    await assert_audited(lab, stored=0, duplicates=0, deleted=1)


async def test_an_event_in_flight_is_stored_as_deleted(lab: Lab, api: httpx.AsyncClient) -> None:
    kept, gone = await lab.emit(click("kept"), click("gone", **PRIVATE))
    await delete(api, gone.interaction_id)
    await assert_gone(lab, api, gone.interaction_id)
    await lab.drain()
    assert await lab.rows("SELECT interaction_id FROM interactions WHERE NOT is_deleted") == [(kept.interaction_id,)]
    rows = await lab.rows("SELECT * FROM interactions WHERE is_deleted")
    assert "ada-lovelace" not in str(rows), "it was never there"
    await assert_gone(lab, api, gone.interaction_id)
    await assert_audited(lab, stored=1, duplicates=0, deleted=1)


async def deleting_at(failpoint: str, lab: Lab, api: httpx.AsyncClient, gone: Receipt) -> Any:
    """A hook that deletes at a failpoint, and then dies there."""

    async def hook(name: str) -> None:
        if name == failpoint and gone.interaction_id not in deleted:
            deleted.append(gone.interaction_id)
            await Deletions(lab.database).note(Deletion(gone.interaction_id, "default"))
            raise Crashed

    deleted: list[str] = []
    return hook


@pytest.mark.parametrize(
    "failpoint", [each for each in failpoints.FAILPOINTS if each not in ("taken", "restored", "refused")]
)
async def test_a_deletion_during_any_step_survives_a_crash(lab: Lab, api: httpx.AsyncClient, failpoint: str) -> None:
    """A deletion noted while a worker processes the event and crashes is applied by that worker or the next."""
    (gone,) = await lab.emit(click("gone", **PRIVATE))
    with at_failpoint(await deleting_at(failpoint, lab, api, gone)), pytest.raises(Crashed):
        await lab.drain()
    await lab.drain()
    if failpoint in ("erased", "lettered", "recorded", "committed"):
        # The deleter erases rows that the consumer has checked already, because it sees them.
        await delete(api, gone.interaction_id)
    await assert_gone(lab, api, gone.interaction_id)
    await assert_audited(lab, stored=0, duplicates=0, deleted=1)


async def test_a_deletion_waits_for_the_event_that_is_being_stored(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the answer comes the event is gone, although nothing but the deleter erases it here."""
    about_to_store, looked = asyncio.Event(), asyncio.Event()
    real_look = Deletions.is_recorded

    async def store_late_and_die(name: str) -> None:
        if name == "claimed":
            about_to_store.set()
            await looked.wait()
        if name == "stored":
            raise Crashed

    async def look(self: Deletions, deletion: Deletion) -> bool:
        found = await real_look(self, deletion)
        looked.set()
        return found

    monkeypatch.setattr(Deletions, "is_recorded", look)
    (gone,) = await lab.emit(click("gone"))
    async with api_of(with_key(lab.settings, read_wait_ms=30_000, delivery_timeout_ms=30_000)) as api:
        with at_failpoint(store_late_and_die):
            draining = asyncio.create_task(lab.drain())
            await about_to_store.wait()
            await delete(api, gone.interaction_id)
            with pytest.raises(Crashed):
                await draining
        assert_error(await api.get(f"{PATH}/{gone.interaction_id}"), 404, "NotFoundError", "deleted")


async def test_the_claim_of_a_deleted_event_remains(lab: Lab, api: httpx.AsyncClient) -> None:
    """A repeat is a duplicate of the deleted event, also after claims are rebuilt from rows."""
    (first,) = await lab.emit(click())
    await lab.drain()
    await delete(api, first.interaction_id)
    for claims in ({}, {"key_prefix": f"{lab.settings.key_prefix}-again"}):
        (again,) = await lab.emit(click())
        await lab.drain(**claims)
        status = (await api.get(f"{PATH}/{again.interaction_id}/status")).json()
        assert (status["status"], status["duplicate_of"]) == ("duplicate", first.interaction_id)
        assert_error(await api.get(f"{PATH}/{again.interaction_id}"), 404, "NotFoundError", "deleted")
    await assert_audited(lab, stored=0, duplicates=2, deleted=1)


async def test_a_redelivered_event_stays_deleted(lab: Lab, api: httpx.AsyncClient) -> None:
    """Under another group everything is read once more, into the same tables."""
    _kept, gone = await lab.emit(click("kept"), click("gone"))
    await lab.drain()
    await delete(api, gone.interaction_id)
    await lab.drain(group=f"{lab.settings.group}-again", key_prefix=f"{lab.settings.key_prefix}-again")
    await assert_gone(lab, api, gone.interaction_id)
    await assert_audited(lab, stored=1, duplicates=0, deleted=1)


async def test_a_repeated_import_of_a_deleted_event_stays_deleted(lab: Lab, api: httpx.AsyncClient) -> None:
    """An id that comes from outside, first before it was ever stored, then again."""
    minted = mint_id()
    await delete(api, minted)
    headers = encode_headers("default", derived_id=True)
    for _ in range(2):
        await lab.put(as_json(interaction_id=minted), headers=headers, key=b"default:exec-1")
    await lab.drain()
    await assert_gone(lab, api, minted)
    await assert_audited(lab, stored=0, duplicates=1, deleted=1)


async def test_deleted_events_stay_deleted_after_a_replay(lab: Lab, api: httpx.AsyncClient) -> None:
    """Events stay deleted that were deleted before the replay, and between validation and swap."""
    kept, before, between = await lab.emit(click("kept"), click("before"), click("between"))
    await lab.drain()
    await delete(api, before.interaction_id)
    into = f"{lab.settings.topic}_again"
    replay = Replay(lab.settings, into, lab.database)
    await replay.prepare(None, None)
    await replay.decide()
    compared = await replay.compare()
    assert (compared.same, compared.changed) == (2, 0)
    await delete(api, between.interaction_id)
    await replay.swap()
    await lab.database.command(f"DROP DATABASE {into}")
    for gone in (before, between):
        await assert_gone(lab, api, gone.interaction_id)
    assert (await api.get(f"{PATH}/{kept.interaction_id}")).status_code == 200
    await assert_audited(lab, stored=1, duplicates=0, deleted=2)


async def test_a_deletion_affects_one_namespace(lab: Lab, api: httpx.AsyncClient) -> None:
    (mine,) = await lab.emit(click())
    answer = await api.delete(f"{PATH}/{mine.interaction_id}", headers={"X-Namespace": "shop"})
    assert answer.status_code == 200, "it tells nothing of other namespaces"
    await lab.drain()
    assert (await api.get(f"{PATH}/{mine.interaction_id}")).status_code == 200


async def test_a_deletion_beyond_one_lookup_is_found(lab: Lab, api: httpx.AsyncClient) -> None:
    kept, gone = await lab.emit(click("kept"), click("gone"))
    await lab.database.command(
        "INSERT INTO deletions (interaction_id, namespace) "
        f"SELECT concat('{gone.interaction_id[:16]}', leftPad(lower(hex(number)), 20, '0')), 'default' "
        f"FROM numbers({2 * MAX_DELETIONS})"
    )
    await Deletions(lab.database).note(Deletion(gone.interaction_id, "default"))
    await lab.drain()
    assert await lab.rows("SELECT interaction_id FROM interactions WHERE NOT is_deleted") == [(kept.interaction_id,)]


async def test_outcomes_of_deleted_events_are_hidden(lab: Lab, api: httpx.AsyncClient) -> None:
    await lab.emit(click())
    (repeat,) = await lab.emit(click())
    await lab.drain()
    assert [each["interaction_id"] for each in (await api.get("/v1/outcomes")).json()["results"]] == [
        repeat.interaction_id
    ]
    await delete(api, repeat.interaction_id)
    assert (await api.get("/v1/outcomes")).json()["results"] == []
    assert_error(await api.get(f"{PATH}/{repeat.interaction_id}"), 404, "NotFoundError", "deleted")


async def test_a_malformed_id_cannot_be_deleted(api: httpx.AsyncClient) -> None:
    assert_error(await api.delete(f"{PATH}/no-id"), 404, "NotFoundError", "unknown")


async def test_the_deletion_of_an_unknown_event_says_that_there_is_none(lab: Lab, api: httpx.AsyncClient) -> None:
    """A confirmation of what did not happen would mislead, for example in a wrong namespace."""
    (stored,) = await lab.emit(click())
    await lab.drain()
    for interaction_id, says in (
        (derive_foreign_id("nowhere", 0, 0, 1), "is stored in namespace default; the deletion is recorded"),
        (stored.interaction_id, "is deleted"),
    ):
        assert says in (await api.delete(f"{PATH}/{interaction_id}")).json()["message"]
