"""The snippet loses no event to limits, storage, tabs, tokens or a second instance."""

import json
from typing import Any

from selenium import webdriver
from selenium.webdriver.common.by import By

from tests.browser.pages_lab import Site, in_browser
from tests.http_lab import PATH, served, with_key
from tests.lab import Lab
from tests.waiting import eventually

TRACK = """
for (let n = 0; n < arguments[0]; n++)
    tally.track("purchase", {feature_id: "doc-" + n, metadata: {text: "ä".repeat(arguments[1])}})
"""
SAVED = "return Object.keys(localStorage).filter((each) => each.startsWith('tally:')).length"
BLOCKED = "Object.defineProperty(window, 'localStorage', {get() { throw new DOMException('no', 'SecurityError') }})"


def purchases(count: int) -> set[tuple[str, str]]:
    return {("purchase", f"doc-{n}") for n in range(count)}


async def state(browser: webdriver.Chrome, expression: str) -> Any:
    return await in_browser(browser.execute_script, f"return {expression}")


async def test_events_of_more_than_64_kib_together_are_sent_in_several_requests(
    browser: webdriver.Chrome, site: Site, endpoint: str
) -> None:
    await in_browser(browser.get, site.page("lots", endpoint))
    await in_browser(browser.execute_script, TRACK, 12, 10_000)
    await site.until("lots", purchases(12))
    assert await state(browser, "tally.dropped") == 0


async def test_events_of_more_than_64_kib_together_survive_leaving_the_page(
    browser: webdriver.Chrome, site: Site, endpoint: str
) -> None:
    await in_browser(browser.get, site.page("leave", endpoint, every=600_000))
    await in_browser(browser.execute_script, TRACK, 12, 10_000)
    await in_browser(browser.get, site.page("back", endpoint))
    await site.until("leave", purchases(12))


async def test_an_event_too_large_for_a_beacon_is_sent_alone(
    browser: webdriver.Chrome, site: Site, endpoint: str
) -> None:
    await in_browser(browser.get, site.page("large", endpoint, every=600_000))
    half = "{text: 'x'.repeat(40000)}"
    fields = f"{{feature_id: 'doc-0', metadata: {half}, query_snapshot: {half}}}"
    await in_browser(browser.execute_script, f"tally.track('purchase', {fields})")
    await in_browser(browser.get, site.page("after", endpoint))
    await site.until("large", purchases(1))


async def test_a_refused_event_does_not_drop_others(browser: webdriver.Chrome, site: Site, endpoint: str) -> None:
    await in_browser(browser.get, site.page("invalid", endpoint))
    await in_browser(
        browser.execute_script,
        "tally.track('purchase', {feature_id: 'doc-0'}); tally.track('no-such-type', {feature_id: 'doc-1'})",
    )
    await in_browser(
        browser.execute_script, "const a = {}; a.a = a; tally.track('purchase', {feature_id: 'doc-2', metadata: a})"
    )
    await site.until("invalid", purchases(1))
    await in_browser(eventually, lambda: browser.execute_script("return tally.dropped") == 2)


async def test_foreign_content_in_storage_is_unchanged(browser: webdriver.Chrome, site: Site, endpoint: str) -> None:
    page = site.page("foreign", endpoint, before="localStorage.tally = 'mine'; localStorage.setItem('tally:x', '{')")
    await in_browser(browser.get, page)
    await site.until("foreign", {("impression", "doc-0")})
    assert await state(browser, "localStorage.tally") == "mine"


async def test_a_page_without_storage_still_sends(browser: webdriver.Chrome, site: Site, endpoint: str) -> None:
    await in_browser(browser.get, site.page("blocked", endpoint, before=BLOCKED))
    await site.until("blocked", {("impression", "doc-0")})
    await in_browser(browser.execute_script, "dispatchEvent(new Event('pagehide'))")


async def test_tabs_do_not_overwrite_each_others_saved_events(
    browser: webdriver.Chrome, site: Site, endpoint: str, lab: Lab
) -> None:
    """The API is unreachable while two tabs are closed; a third tab sends their events."""
    settings = with_key(lab.settings)
    async with served(settings) as gone:
        pass
    refused = "navigator.sendBeacon = () => false"
    for execution in ("tab-1", "tab-2"):
        await in_browser(browser.switch_to.new_window, "tab")
        await in_browser(browser.get, site.page(execution, gone, every=600_000, before=refused))
        await in_browser(browser.execute_script, TRACK, 2, 1)
    for handle in browser.window_handles[1:]:
        await in_browser(browser.switch_to.window, handle)
        await in_browser(browser.get, f"{site.origin}/")
    async with served(settings, port=int(gone.rpartition(":")[2])):
        await in_browser(browser.get, site.page("tab-3", gone))
        await site.until("tab-1", purchases(2))
        await site.until("tab-2", purchases(2))
        assert await in_browser(browser.execute_script, SAVED) == 0


async def test_dwell_does_not_count_a_hidden_tab(browser: webdriver.Chrome, site: Site, endpoint: str) -> None:
    await in_browser(browser.get, site.page("hidden", endpoint, every=600_000))
    first = browser.current_window_handle
    await in_browser(browser.execute_async_script, "setTimeout(arguments[0], 1200)")
    shown_ms = await state(browser, "performance.now()")
    await in_browser(browser.switch_to.new_window, "tab")
    await in_browser(browser.execute_async_script, "setTimeout(arguments[0], 3000)")
    await in_browser(browser.switch_to.window, first)
    await in_browser(browser.get, "about:blank")
    found = await site.until("hidden", {("dwell", "doc-0")})
    (dwell,) = (each for each in found if each["interaction_type"] == ["dwell"] and each["feature_id"] == "doc-0")
    assert 1_000 <= dwell["metadata"]["dwell_ms"] < shown_ms + 2_500


async def test_an_expired_token_keeps_events_until_there_is_another(
    browser: webdriver.Chrome, site: Site, endpoint: str
) -> None:
    valid, site.token = site.token, site.token_for(-1)
    await in_browser(browser.get, site.page("expired", endpoint))
    await in_browser(eventually, lambda: "expired" in str(browser.execute_script("return errors")))
    assert await state(browser, "tally.dropped") == 0
    site.token = valid
    await in_browser(browser.get, site.page("renewed", endpoint))
    await site.until("expired", {("impression", "doc-0")})


async def test_a_token_function_is_called_again_after_its_token_expired(
    browser: webdriver.Chrome, site: Site, endpoint: str
) -> None:
    tokens = json.dumps([site.token_for(-1), site.token])
    more = "{token: async () => tokens.shift(), context: {execution_id: 'asked'}}"
    await in_browser(browser.get, site.page("asking", endpoint))
    script = f"const tokens = {tokens}; start({more}).track('purchase', {{feature_id: 'doc-0'}})"
    await in_browser(browser.execute_script, script)
    await site.until("asked", purchases(1))


async def test_a_trailing_slash_of_the_endpoint_is_ignored(
    browser: webdriver.Chrome, site: Site, endpoint: str
) -> None:
    await in_browser(browser.get, site.page("slash", f"{endpoint}/"))
    await site.until("slash", {("impression", "doc-0")})


async def test_a_second_search_gets_the_clicks_on_its_own_results_only(
    browser: webdriver.Chrome, site: Site, endpoint: str
) -> None:
    await in_browser(browser.get, site.page("first", endpoint))
    await in_browser(
        browser.execute_script,
        "start({context: {execution_id: 'second'}}).observe([document.querySelector('[data-tally-id=doc-1]')])",
    )
    for number in (0, 1):
        link = await in_browser(browser.find_element, By.CSS_SELECTOR, f'[data-tally-id="doc-{number}"] a')
        await in_browser(link.click)
    await site.until("first", {("click", "doc-0")})
    await site.until("second", {("click", "doc-1")})
    answer = await site.api.post(f"{PATH}/list", json={"interaction_type": "click"})
    assert {(each["execution_id"], each["feature_id"]) for each in answer.json()["results"]} == {
        ("first", "doc-0"),
        ("second", "doc-1"),
    }
