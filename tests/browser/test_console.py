"""The console in a browser: what people do with it, by keyboard, while events arrive and while the API is away."""

import json
import time
from datetime import UTC, datetime, timedelta
from statistics import median

import pytest
from selenium.webdriver.common.keys import Keys

from console.navigation import SCREENS
from tests.browser.console_lab import ConsolePage, ConsoleSite
from tests.http_lab import EVENT, PATH

MAX_DELAY_S = 2.0
"""Median time from POST to the screen of live events that is promised."""
MAX_TABS = 4
WATCH = """window.seen = {};
new MutationObserver(() => {
    for (const each of document.querySelectorAll("[data-live] tbody a[title^=int_]")) seen[each.title] ??= Date.now();
}).observe(document.querySelector("[data-live] tbody"), {childList: true});"""
REQUESTS = "return performance.getEntriesByType('resource').filter((each) => each.name.includes('/live/events')).length"


async def test_an_id_is_pasted_and_its_outcome_is_read_by_keyboard_alone(
    page: ConsolePage, console: ConsoleSite
) -> None:
    """The search field is a few tabs away from the start of every page, and Enter shows the outcome."""
    event = await console.send(execution_id="keyboard")
    await page.open("/")
    for _ in range(MAX_TABS):
        await page.press(Keys.TAB)
        if await page.run("return document.activeElement.id === 'top-search'"):
            break
    await page.press(event, Keys.ENTER)
    await page.shown("#found .verdict.v-stored")
    await page.shown("#found .id", event)
    await page.press(Keys.TAB, Keys.ENTER)
    assert await page.run("return document.activeElement.id") == "main", "the first tab leads past the navigation"
    assert await page.problems() == []


async def test_a_rejected_event_is_corrected_in_the_browser(page: ConsolePage, console: ConsoleSite) -> None:
    """An event of another Kafka client is found, corrected while the validator answers, tried, replayed and stored."""
    await console.put(json.dumps(EVENT | {"result_set_size": "ten", "execution_id": "rejected"}).encode())
    await page.open("/dead-letters")
    await page.shown("#groups td", "result_set_size")
    await page.open("/dead-letters?field=result_set_size")
    await page.click("#letters a", "partition")
    await page.shown("pre", '"result_set_size": "ten"')
    await page.type("#patch", '{"result_set_size"')
    await page.shown("[data-answer]", "not JSON yet")
    await page.press(": -1}")
    await page.shown("[data-answer] .bad", "Still rejected")
    await page.type("#patch", '{"result_set_size": 10}')
    await page.shown("[data-answer] .good", "Valid")
    await page.click("button", "Dry run")
    await page.shown("h2", "Dry run: nothing was changed")
    await page.shown(".tile", "Would be valid 1")
    await page.click("button", "Replay")
    await page.shown("h2", "Replayed")
    await page.shown("#outcome .verdict.v-stored")
    await page.open("/dead-letters?field=result_set_size")
    await page.shown("#groups .empty", "none waits")
    assert await page.problems() == []


async def test_an_event_is_on_the_live_screen_within_two_seconds(page: ConsolePage, console: ConsoleSite) -> None:
    """The median of several events, from before their POST until their row is in the page, is below the promise."""
    await page.open("/live")
    await page.shown("[data-live-status]", "new events")
    await page.run(WATCH)
    delays = []
    for number in range(9):
        sent = time.time()
        answer = await console.api.post(PATH, json=EVENT | {"execution_id": f"live-{number}"})
        seen = await page.until("return seen[arguments[0]]", answer.headers["x-interaction-id"])
        delays.append(round(seen / 1000 - sent, 3))
    assert median(delays) < MAX_DELAY_S, delays
    assert await page.problems() == []


async def test_a_key_without_the_scope_sees_why_on_every_screen(page: ConsolePage, console: ConsoleSite) -> None:
    """No screen is empty or broken for a key that may not read: each names the scope that is missing."""
    key, _ = await console.key("write")
    await page.reset()
    await page.sign_in(key)
    for path in ({each.path for each in SCREENS} - {"/find"}) | {"/find?id=int_0", f"/find?id=int_{0:032x}"}:
        await page.open(path)
        await page.until(
            "return /(lacks|needs) the scope '?(read|admin)/.test(document.querySelector('main').innerText)"
        )
    assert await page.problems(403) == []


async def test_a_reader_sees_why_it_cannot_replay(page: ConsolePage, console: ConsoleSite) -> None:
    """A key that may only read tries a correction, and the page names the scope that a replay needs.

    A replay that the API refuses leaves what was typed.
    """
    await console.put(json.dumps(EVENT | {"position": "ten", "execution_id": "read only"}).encode())
    key, _ = await console.key("read")
    await page.reset()
    await page.sign_in(key)
    await page.open("/dead-letters?field=position")
    await page.click("#groups a", "Correct it")
    await page.type("#patch", '{"position": 0}')
    await page.click("button", "Dry run")
    await page.shown("h2", "Dry run")
    await page.shown(".tile", "Would be valid 1")
    await page.shown("#needs-write", "needs the scope write")
    await page.run("document.querySelector('button[value=replay]').disabled = false")
    await page.click("button", "Replay")
    await page.shown(".problem", "write")
    assert await page.run("return document.querySelector('#patch').value") == '{"position": 0}'
    assert await page.problems(403) == []


async def test_the_live_page_of_a_revoked_key_goes_to_the_sign_in(page: ConsolePage, console: ConsoleSite) -> None:
    """A viewer whose key is revoked is led to the sign-in without a click, and reads why."""
    key, key_id = await console.key("read")
    await page.reset()
    await page.sign_in(key)
    await page.open("/live")
    await page.shown("[data-live-status]", "new events")
    assert (await console.api.delete(f"/v1/keys/{key_id}")).is_success
    await page.shown("main .note", "Your session has ended")
    assert await page.run("return new URLSearchParams(location.search).get('back')") == "/live"
    assert await page.problems(401) == []


async def test_live_events_pause_by_key(page: ConsolePage, console: ConsoleSite) -> None:
    """The key p pauses and resumes; while a field has the focus it is a letter, and no event is missed."""
    await page.open("/live")
    await page.shown("[data-live-status]", "new events")
    await page.press("p")
    await page.shown("[data-live-status]", "Paused")
    requests = await page.run(REQUESTS)
    event = await console.send(execution_id="paused")
    assert await page.run(REQUESTS) == requests
    await page.type("#user_id", "p")
    await page.shown("[data-pause]", "Resume")
    await page.run("document.activeElement.blur()")
    await page.press("p")
    await page.shown("[data-pause]", "Pause")
    await page.until("return document.querySelector(`[data-live] a[title=${arguments[0]}]`)", event)
    assert await page.problems() == []


async def test_live_events_are_counted_since_the_page_was_opened(page: ConsolePage, console: ConsoleSite) -> None:
    """Counts are sums of all looks, without the events listed from before; rows with long texts fit the screen."""
    before = await console.send(execution_id="before")
    await page.open("/live")
    await page.until("return document.querySelector(`[data-live] a[title=${arguments[0]}]`)", before)
    await page.open("/live")
    await page.shown("[data-live] [data-since]", "of the minutes before")
    long = {"user_id": "user " * 20, "retriever_id": "retriever " * 9, "query_snapshot": {"text": "red shoes " * 20}}
    for number in range(3):
        await console.send(**long, execution_id=f"counted in {number} looks, in an execution with a long name")
        stored = f"return document.querySelector('[data-count=stored]').textContent === '{number + 1}'"
        await page.until(stored)
    await console.send(**long, execution_id="counted in 2 looks, in an execution with a long name")
    await page.shown("[data-counts]", "3 stored 1 duplicate 0 rejected")
    looks = await page.run(REQUESTS)
    await page.until(f"return ({REQUESTS.removeprefix('return ')}) > arguments[0] + 1", looks)
    await page.shown("[data-counts]", "3 stored 1 duplicate 0 rejected")
    await page.shown("[data-live] tbody [title^='red shoes red shoes']", "red shoes red sho…")
    beyond = "const rows = document.querySelector('[data-rows]'); return rows.scrollWidth - rows.clientWidth"
    assert await page.run(beyond) == 0
    heights = "return [...document.querySelectorAll('[data-live] tbody tr')].map((each) => each.clientHeight)"
    assert max((await page.run(heights))[1:4]) < 40, "one line each"
    assert await page.problems() == []


async def test_a_page_of_live_events_stays_bounded(page: ConsolePage, console: ConsoleSite) -> None:
    """However many events arrive, the page keeps the newest 300 rows."""
    await page.open("/live")
    await page.shown("[data-live-status]", "new events")
    await page.run("""window.added = 0; new MutationObserver((changes) => {
        for (const each of changes) added += [...each.addedNodes].filter((node) => node.localName === "tr").length;
    }).observe(document.querySelector("[data-live] tbody"), {childList: true})""")
    number = 0
    while (added := await page.run("return added")) <= 400:
        number += 1
        batch = [EVENT | {"execution_id": f"many-{number}-{each}"} for each in range(100)]
        answer = await console.api.post(f"{PATH}/batch", json={"interactions": batch})
        assert answer.is_success, answer.text
        await page.until("return added > arguments[0]", added)
    assert await page.run("return document.querySelectorAll('[data-live] tbody tr').length") == 300
    assert await page.problems() == []


async def test_times_are_in_the_zone_of_the_browser(page: ConsolePage, console: ConsoleSite) -> None:
    """A time is shown as clocks of the viewer show it, and its title is UTC; ticks of charts follow."""
    await page.emulate("Emulation.setTimezoneOverride", timezoneId="Asia/Kathmandu")
    await page.emulate("Emulation.setLocaleOverride", locale="en-GB")
    event = await console.send(execution_id="zone")
    await page.open(f"/find?id={event}")
    shown = await page.shown("#found time[title$=UTC]")
    found = await page.run("const [time] = arguments; return [time.dateTime, time.textContent, time.title]", shown)
    moment = datetime.fromisoformat(found[0])
    assert f"{moment + timedelta(hours=5, minutes=45):%H:%M:%S}" in found[1]
    assert found[2].startswith(f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}")
    await page.open("/")
    await page.shown("#traffic svg")
    ticks = "return [...document.querySelectorAll('#traffic text')].filter((each) => each.lastElementChild)"
    ticks += ".map((each) => [each.firstChild.data, each.lastElementChild.textContent])"
    for label, title in await page.run(ticks):
        local = datetime.fromisoformat(title.removesuffix(" UTC")) + timedelta(hours=5, minutes=45)
        assert label == f"{local:%H:%M}"
    assert await page.problems() == []


@pytest.mark.parametrize(
    ("path", "content", "problem"),
    [
        ("/", ("#pipeline .tile", "Workers"), ("#pipeline .problem", "does not answer")),
        ("/live", ("[data-live-status]", "new events"), ("[data-live-status]", "does not answer")),
        ("/find?id=away", ("#found .verdict", "stored"), ("#found .problem", "does not answer")),
    ],
    ids=["overview", "live events", "event"],
)
async def test_a_page_recovers_from_an_api_that_was_away(
    page: ConsolePage, console: ConsoleSite, path: str, content: tuple[str, str], problem: tuple[str, str]
) -> None:
    """While the API is away the page says so; when it is back the page shows its content again, without a reload."""
    await console.send(execution_id="away")
    await page.open(path)
    await page.shown(*content)
    await console.stop_api()
    try:
        if "id=" in path:  # its panel is loaded once
            await page.open(path)
        await page.shown(*problem)
        await page.run("window.same = true")
    finally:
        await console.start_api()
    await page.shown(*content)
    assert await page.run("return window.same")
    assert await page.problems(502) == []


async def test_a_range_from_a_time_needs_no_other_choice(page: ConsolePage) -> None:
    await page.open("/reports/overview")
    await page.click("details.more summary")
    await page.type("#since", "2026-01-01")
    await page.click("button[type=submit]", "Show")
    await page.until("return new URLSearchParams(location.search).get('since') === '2026-01-01'")
    await page.shown("#answer", "Intervals hold the true value")
