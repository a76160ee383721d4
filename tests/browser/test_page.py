"""A page with the snippet, in headless Chromium: user actions are stored and found by id."""

from selenium import webdriver
from selenium.webdriver.common.by import By

from tests.browser.pages_lab import SNIPPET, Site, in_browser
from tests.http_lab import PATH, served, with_key
from tests.lab import Lab
from tests.waiting import eventually


def test_the_snippet_is_small() -> None:
    assert SNIPPET.stat().st_size < 8_000


async def test_clicks_in_a_browser_are_found_by_id(browser: webdriver.Chrome, site: Site, endpoint: str) -> None:
    await in_browser(browser.get, site.page("search-1", endpoint))
    seen = await site.until("search-1", {("impression", "doc-0")})
    assert {each["feature_id"] for each in seen} <= {"doc-0", "doc-1", "doc-2"}, "only what is visible"
    third = await in_browser(browser.find_element, By.CSS_SELECTOR, '[data-tally-id="doc-3"] a')
    await in_browser(third.click)  # scrolls there, as a person would
    await in_browser(third.click)
    found = await site.until("search-1", {("impression", "doc-3"), ("click", "doc-3")})
    (click,) = (each for each in found if each["interaction_type"] == ["click"])
    assert (click["position"], click["user_id"], click["retriever_id"]) == (3, "ada", "hybrid")
    assert (await site.api.get(f"{PATH}/{click['interaction_id']}")).json() == click
    assert (
        len([each for each in found if each["interaction_type"] == ["impression"] and each["feature_id"] == "doc-3"])
        == 1
    )


async def test_leaving_the_page_sends_pending_events_and_dwell_times(
    browser: webdriver.Chrome, site: Site, endpoint: str
) -> None:
    await in_browser(browser.get, site.page("search-2", endpoint, every=600_000))
    await in_browser(browser.execute_async_script, "setTimeout(arguments[0], 1200)")
    await in_browser(browser.execute_script, 'tally.track("purchase", {feature_id: "doc-0", metadata: {price: 3}})')
    await in_browser(browser.get, "about:blank")
    wanted = {("impression", "doc-0"), ("purchase", "doc-0"), ("dwell", "doc-0")}
    found = await site.until("search-2", wanted)
    (dwell,) = (each for each in found if each["interaction_type"] == ["dwell"] and each["feature_id"] == "doc-0")
    assert dwell["metadata"]["dwell_ms"] >= 1_000


async def test_events_that_could_not_be_sent_are_sent_again(
    browser: webdriver.Chrome, site: Site, endpoint: str, lab: Lab
) -> None:
    """The API is away at first; it comes back at the same address."""
    settings = with_key(lab.settings)
    async with served(settings) as gone:
        pass
    await in_browser(browser.get, site.page("search-3", gone, every=50))
    failed = "return performance.getEntriesByType('resource').filter((each) => each.name.includes('beacon')).length"
    await in_browser(eventually, lambda: browser.execute_script(failed) >= 1)
    async with served(settings, port=int(gone.rpartition(":")[2])):
        await site.until("search-3", {("impression", "doc-0")})


async def test_a_page_of_another_site_cannot_write(browser: webdriver.Chrome, site: Site, endpoint: str) -> None:
    site.token = site.token_for(600, "https://shop.example")
    await in_browser(browser.get, site.page("search-4", endpoint))
    await in_browser(eventually, lambda: browser.execute_script("return tally.dropped") >= 1)
    assert (await site.api.post(f"{PATH}/list", json={"execution_id": "search-4"})).json()["results"] == []
