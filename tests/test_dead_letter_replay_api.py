"""Replay of dead letters over HTTP: a dry run, the outcome of a replay, and all letters in steps."""

import logging
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.chaos.traffic import LONG, NARROWED
from tests.dead_letter_lab import BAD, FIX, asked, put_bad, replayed
from tests.http_lab import PATH, api_of, with_key
from tests.lab import Lab, as_json


@pytest.fixture
async def api(lab: Lab) -> AsyncIterator[httpx.AsyncClient]:
    """The API on this test's tables."""
    async with api_of(with_key(lab.settings, clock_skew_ms=60_000), "reader") as client:
        yield client


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
