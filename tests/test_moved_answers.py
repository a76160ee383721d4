"""Outcomes of misplaced events, while their copies are in flight and afterwards."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from consumers.moves import Mover
from consumers.retention import expire_outcomes
from consumers.worker import Worker
from readers.audit import PartitionAudit, audit
from readers.deep_audit import deep_audit
from readers.lookup import Lookups
from readers.overview import VerdictCounts, count_verdicts
from schemas.identity import mint_id
from schemas.outcome import Moved, Stored
from tests.http_lab import PATH, api_of, assert_error, with_key
from tests.lab import Lab, Place, as_json
from tests.reports_lab import only
from tests.test_moves import elsewhere, home_of
from tests.waiting import eventually_async

HOME = home_of("exec-1")


@pytest.fixture
async def api(lab: Lab) -> AsyncIterator[httpx.AsyncClient]:
    """The API on this test's tables."""
    async with api_of(with_key(lab.settings)) as client:
        yield client


async def moved(lab: Lab, **fields: Any) -> tuple[str, Place]:
    """Move an event whose copy has no outcome yet; returns its id and its original place."""
    minted = mint_id()
    place = await lab.put(as_json(interaction_id=minted, **fields), partition=elsewhere("exec-1"))
    counts = await Worker(lab.settings, instance=None, until_caught_up=True, ends={HOME: 0}).run()
    assert (counts.moved, counts.stored) == (1, 0)
    return minted, place


async def totals(lab: Lab) -> PartitionAudit:
    """The accounts of all partitions together, which balance."""
    total = PartitionAudit(partition=-1)
    async for each in audit(lab.settings, lab.database):
        assert each.balances, each
        for name in ("accepted", "stored", "duplicates", "rejected", "deleted", "moved", "in_flight"):
            setattr(total, name, getattr(total, name) + getattr(each, name))
    return total


async def test_a_moved_event_is_in_flight_until_its_copy_has_an_outcome(lab: Lab, api: httpx.AsyncClient) -> None:
    minted, _ = await moved(lab)
    answer = await api.get(f"{PATH}/{minted}")
    assert_error(answer, 404, "NotFoundError", "in_flight")
    assert answer.headers["retry-after"] == "1"
    assert (await api.get(f"{PATH}/{minted}/status")).json()["status"] == "accepted"
    assert await Lookups(lab.database, 1).get("default", minted) == Moved(HOME, 0)
    found = await totals(lab)
    assert (found.accepted, found.moved, found.in_flight) == (2, 1, 1)
    assert (await deep_audit(lab.settings, lab.database)).balances

    await lab.drain()
    assert (await api.get(f"{PATH}/{minted}")).json()["interaction_id"] == minted
    assert (await api.get(f"{PATH}/{minted}/status")).json()["status"] == "stored"
    assert isinstance(await Lookups(lab.database, 1).get("default", minted), Stored)
    found = await totals(lab)
    assert (found.accepted, found.moved, found.stored, found.in_flight) == (2, 1, 1, 0)


async def test_a_moved_event_has_the_outcome_of_its_copy(lab: Lab, api: httpx.AsyncClient) -> None:
    """The moved event is a duplicate of the event on the right partition."""
    owner, minted = mint_id(), mint_id()
    await lab.put(as_json(interaction_id=owner))
    await lab.drain()
    await lab.put(as_json(interaction_id=minted), partition=elsewhere("exec-1"))
    await lab.drain()
    answer = await api.get(f"{PATH}/{minted}")
    assert (answer.status_code, answer.headers["x-duplicate-of"]) == (200, owner)
    status = (await api.get(f"{PATH}/{minted}/status")).json()
    assert (status["status"], status["duplicate_of"]) == ("duplicate", owner)


async def test_a_moved_event_with_expired_rows_is_not_in_flight(lab: Lab, api: httpx.AsyncClient) -> None:
    """The event was moved longer ago than events are kept: the outcome of its copy has expired."""
    minted, _ = await moved(lab)
    await lab.drain()
    await lab.database.command("ALTER TABLE interactions DELETE WHERE 1 SETTINGS mutations_sync = 2")

    async def is_unknown() -> bool:
        return bool((await api.get(f"{PATH}/{minted}/status")).json()["status"] == "unknown")

    await eventually_async(is_unknown)
    assert_error(await api.get(f"{PATH}/{minted}"), 404, "NotFoundError", "unknown")


async def test_moved_events_can_be_listed(lab: Lab, api: httpx.AsyncClient) -> None:
    """With verdict `moved`; without a verdict, each event is listed once with the outcome of its copy."""
    minted, _ = await moved(lab, user_id="ada")
    await lab.drain()
    assert (await api.get("/v1/outcomes")).json()["results"] == []
    (only,) = (await api.get("/v1/outcomes", params={"verdict": "moved", "user_id": "ada"})).json()["results"]
    assert (only["interaction_id"], only["moved_to"]) == (minted, f"{HOME}/0")
    assert "wrong partition" in only["explanation"]
    assert only["duplicate_of"] is only["message"] is None


async def test_a_deletion_applies_to_an_event_that_is_being_moved(lab: Lab, api: httpx.AsyncClient) -> None:
    minted, _ = await moved(lab)
    assert (await api.delete(f"{PATH}/{minted}")).status_code == 200
    assert_error(await api.get(f"{PATH}/{minted}"), 404, "NotFoundError", "deleted")
    await lab.drain()
    assert_error(await api.get(f"{PATH}/{minted}"), 404, "NotFoundError", "deleted")
    assert await lab.count("interactions") == 0
    assert (await api.get("/v1/outcomes", params={"verdict": "moved"})).json()["results"] == []
    found = await totals(lab)
    assert (found.moved, found.deleted, found.in_flight) == (1, 1, 0)


async def test_old_moves_are_still_counted(lab: Lab) -> None:
    """In the overview, in the report by hour, and in the ledger once their month has left."""
    await moved(lab)
    await lab.drain()
    assert await count_verdicts(lab.settings, lab.database) == VerdictCounts(stored=1, moved=1)
    now = datetime.now(UTC)
    assert await only(lab, "verdicts", "events", "stored", "moved", by="all") == [(1, 1, 1)]
    assert await expire_outcomes(lab.database, keep_days=1, now=now + timedelta(days=62))
    assert await lab.count("outcomes") == 0
    assert await count_verdicts(lab.settings, lab.database) == VerdictCounts(stored=1, moved=1)
    assert (await totals(lab)).moved == 1


async def test_the_deep_audit_finds_a_lost_copy(lab: Lab) -> None:
    minted, place = await moved(lab)
    await lab.drain()
    await lab.database.command("ALTER TABLE interactions DELETE WHERE 1 SETTINGS mutations_sync = 2")
    (found,) = (await deep_audit(lab.settings, lab.database)).lost_moves
    assert found == f"default {minted} at {place.partition}/{place.offset}: its copy at {HOME}/0 has no outcome"


async def test_the_deep_audit_finds_an_event_stored_on_two_partitions(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One click is stored under two ids, as by a version without moves. Events further apart are not a finding."""

    async def nothing(*_args: Any) -> None:
        return None

    monkeypatch.setattr(Mover, "set_apart", nothing)
    ids = mint_id(), mint_id(), mint_id()
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    await lab.put(as_json(interaction_id=ids[0]), partition=HOME)
    await lab.put(as_json(interaction_id=ids[1]), partition=elsewhere("exec-1"))
    await lab.put(as_json(interaction_id=ids[2], occurred_at=later), partition=elsewhere("exec-1", 2))
    await lab.put(as_json("another", interaction_id=mint_id()), partition=elsewhere("exec-1"))
    assert (await lab.drain()).stored == 4
    (found,) = (await deep_audit(lab.settings, lab.database)).stored_apart
    assert ids[0] in found
    assert ids[1] in found
    assert not (await deep_audit(lab.settings, lab.database, datetime.now(UTC) + timedelta(days=1))).stored_apart
