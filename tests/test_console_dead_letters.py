"""Dead letters in the console on a live API: found, corrected, replayed."""

import base64
import json
import re
from collections.abc import AsyncIterator

import pytest

from tests.console_lab import sign_in
from tests.console_viewer import Viewer, viewer_of
from tests.http_lab import EVENT
from tests.lab import Lab
from tests.waiting import eventually_async


@pytest.fixture
async def viewer(lab: Lab) -> AsyncIterator[Viewer]:
    async with viewer_of(lab) as found:
        yield found


def _highlighted(page: str) -> list[str]:
    """Return the labels of the buttons that a page recommends, without those of its head."""
    return re.findall(r'class="primary"[^>]*>([^<]+)</button>', page)


async def test_a_rejected_event_is_corrected_and_stored(viewer: Viewer) -> None:
    partition, offset = await viewer.put(json.dumps(EVENT | {"position": "one"}).encode())
    place = f"{partition}/{offset}"
    groups = await viewer.until_seen("/dead-letters/groups", "wrong_type")
    assert "Correct it" in groups
    assert place in await viewer.see("/dead-letters/list")
    letter = await viewer.see(f"/dead-letters/{place}")
    assert _highlighted(letter) == ["Dry run"]
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
    assert _highlighted(tried.text) == ["Replay"]
    done = await viewer.browser.post("/dead-letters/replay", data=form | {"action": "replay"})
    assert '<form method="post" action="/dead-letters/replay"' not in done.text, "nothing is left to replay"
    (new,) = set(re.findall(r"int_[0-9a-f]{32}", done.text))
    await viewer.until_seen("/find/event", "v-stored", id=new)
    await viewer.until_seen("/dead-letters/list", "v-stored", replayed="yes")
    replayed = await viewer.see(f"/dead-letters/{place}")
    assert re.search(rf"Already replayed as <a[^>]*>{new}</a>, stored", replayed)
    assert 'name="patch"' not in replayed
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
    assert "Value, 9 B: not UTF-8, so its bytes are shown in Base64" in letter
    assert base64.b64encode(b"no json \xff").decode() in letter
    await viewer.see(f"/dead-letters/{partition}/{offset}", 404)


async def test_a_record_is_shown_as_it_was_sent(viewer: Viewer) -> None:
    """The text of the value keeps its blanks, and a formatted view is a closed section of its own."""
    partition, offset = await viewer.put(b'{"position":   "one",\n"x": 1}')
    await viewer.until_seen("/dead-letters/list", f"/dead-letters/{partition}/{offset}")
    letter = await viewer.see(f"/dead-letters/{partition}/{offset}")
    assert "{&#34;position&#34;:   &#34;one&#34;,\n&#34;x&#34;: 1}</pre>" in letter
    assert "Value, 29 B" in letter
    assert re.search(r'<pre tabindex="0" id="key">k</pre>', letter)
    assert re.search(r"<td>tally-namespace</td><td>default</td>", letter)
    formatted = re.search(r'<details id="formatted"( open)?>.*?</details>', letter, re.DOTALL)
    assert formatted is not None
    assert formatted[1] is None
    assert "{\n  &#34;position&#34;: &#34;one&#34;,\n" in formatted[0]


async def test_a_correction_needs_a_condition(viewer: Viewer) -> None:
    """All letters of a namespace are never corrected at once: without a condition the page leads to the list."""
    await viewer.put(json.dumps(EVENT | {"position": "one"}).encode())
    await viewer.until_seen("/dead-letters/groups", "Correct it")
    for answer in (
        await viewer.browser.get("/dead-letters/replay"),
        await viewer.browser.get("/dead-letters/replay", params={"unattributed": "1"}),
        await viewer.browser.post("/dead-letters/replay", data={"patch": '{"position": 1}', "action": "replay"}),
    ):
        assert answer.status_code == 303
        assert answer.headers["location"].startswith("/dead-letters")
    assert "Correct it" in await viewer.see("/dead-letters/groups")
    for condition in ("reason", "field", "without_field", "message", "since", "until", "origin"):
        assert _highlighted((await viewer.browser.get("/dead-letters/replay", params={condition: "1"})).text) == [
            "Dry run"
        ]


async def test_a_key_that_may_only_read_is_not_offered_a_replay(viewer: Viewer) -> None:
    partition, offset = await viewer.put(json.dumps(EVENT | {"position": "one"}).encode())
    await viewer.until_seen("/dead-letters/groups", "Correct it")
    letter, form = f"/dead-letters/{partition}/{offset}", {"reason": "wrong_type", "field": "position"}
    is_off = r'<button [^>]*value="replay"[^>]* disabled[^>]*>Replay</button>'
    assert not re.search(is_off, await viewer.see(letter))
    assert "needs the scope admin" not in await viewer.see("/dead-letters")
    body = {"name": "reader", "scopes": ["read"], "namespaces": ["default"]}
    key = (await viewer.api.post("/v1/keys", json=body)).json()["key"]

    async def is_signed_in() -> bool:
        return (await sign_in(viewer.browser, key)).status_code == 303

    await eventually_async(is_signed_in)
    for page in (await viewer.see(letter), (await viewer.browser.get("/dead-letters/replay", params=form)).text):
        assert re.search(is_off, page)
        assert "A replay needs the scope <code>write</code>" in page
    assert re.search(r'name="unattributed" value="1" disabled> of no namespace', await viewer.see("/dead-letters"))
    data = form | {"patch": '{"position": 1, "shelf"', "action": "replay"}
    refused = await viewer.browser.post("/dead-letters/replay", data=data | {"patch": '{"position": 12}'})
    assert refused.status_code == 403
    assert "Your key does not allow this" in refused.text
    assert "{&#34;position&#34;: 12}</textarea>" in refused.text, "what was typed is kept"
    unfinished = await viewer.browser.post("/dead-letters/replay", data=data)
    assert "shelf&#34;</textarea>" in unfinished.text
    page = await viewer.see(letter, 403, unattributed="1")
    assert "<h1>Not allowed</h1>" in page
    assert "did not answer" not in page


async def test_the_way_back_from_a_correction_leads_to_the_same_kind_of_letters(viewer: Viewer) -> None:
    page = await viewer.see("/dead-letters/replay", reason="wrong_type", unattributed="1")
    assert '<a href="/dead-letters?unattributed=1">Back to the dead letters</a>' in page
    page = await viewer.see("/dead-letters/replay", reason="wrong_type")
    assert '<a href="/dead-letters">Back to the dead letters</a>' in page
