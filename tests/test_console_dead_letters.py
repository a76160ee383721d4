"""Dead letters in the console on a live API: found, corrected, replayed."""

import json
import re
from collections.abc import AsyncIterator

import pytest

from tests.console_viewer import Viewer, viewer_of
from tests.http_lab import EVENT
from tests.lab import Lab


@pytest.fixture
async def viewer(lab: Lab) -> AsyncIterator[Viewer]:
    async with viewer_of(lab) as found:
        yield found


async def test_a_rejected_event_is_corrected_and_stored(viewer: Viewer) -> None:
    partition, offset = await viewer.put(json.dumps(EVENT | {"position": "one"}).encode())
    place = f"{partition}/{offset}"
    groups = await viewer.until_seen("/dead-letters/groups", "wrong_type")
    assert "Correct all 1" in groups
    assert place in await viewer.see("/dead-letters/list")
    letter = await viewer.see(f"/dead-letters/{place}")
    assert "Input should be a valid integer" in letter
    assert "&#34;position&#34;: &#34;one&#34;" in letter

    async def check(patch: str) -> str:
        return (await viewer.browser.post(f"/dead-letters/{place}/check", data={"patch": patch})).text

    assert "not JSON yet" in await check('{"position":')
    assert "JSON object" in await check("[1]")
    assert "Still rejected" in await check('{"position": -1}')
    assert "Valid" in await check('{"position": 1}')
    form = {"origin": place, "patch": '{"position": 1}'}
    tried = await viewer.browser.post("/dead-letters/replay", data=form | {"action": "dry_run"})
    assert "Dry run: nothing was changed" in tried.text
    done = await viewer.browser.post("/dead-letters/replay", data=form | {"action": "replay"})
    (new,) = set(re.findall(r"int_[0-9a-f]{32}", done.text))
    await viewer.until_seen("/find/event", "v-stored", id=new)
    await viewer.until_seen("/dead-letters/list", "v-stored", replayed="yes")
    assert "none waits" in await viewer.see("/dead-letters/groups")


async def test_many_letters_are_replayed_in_steps(viewer: Viewer) -> None:
    for number in range(3):
        await viewer.put(json.dumps(EVENT | {"position": "one", "execution_id": f"e{number}"}).encode())
    await viewer.until_seen("/dead-letters/groups", "Correct all 3")
    form = {"reason": "wrong_type", "field": "position", "patch": '{"position": 1}', "action": "replay"}
    first = await viewer.browser.post("/dead-letters/replay", data=form)
    cursor = re.search(r'name="cursor" value="([^"]+)"', first.text)
    assert cursor is not None
    assert "Replay the next ones" in first.text
    rest = await viewer.browser.post("/dead-letters/replay", data=form | {"cursor": cursor[1]})
    assert "the next ones" not in rest.text
    assert "none waits" in await viewer.see("/dead-letters/groups")


async def test_a_record_of_no_namespace_is_for_admins(viewer: Viewer) -> None:
    partition, offset = await viewer.put(b"no json \xff")
    await viewer.until_seen("/dead-letters/groups", "not_utf8", unattributed="1")
    assert "not_utf8" not in await viewer.see("/dead-letters/groups")
    letter = await viewer.see(f"/dead-letters/{partition}/{offset}", unattributed="1")
    assert "in Base64" in letter
    await viewer.see(f"/dead-letters/{partition}/{offset}", 404)
