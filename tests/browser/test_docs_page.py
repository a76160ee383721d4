"""The page at /docs in a browser: a key is entered, a call is made, and nothing is loaded from another host."""

import json
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from selenium import webdriver
from selenium.common.exceptions import TimeoutException
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support import expected_conditions as condition
from selenium.webdriver.support.wait import WebDriverWait

from tests.browser.pages_lab import in_browser
from tests.http_lab import KEY

PATIENCE_S = 10
ATTEMPTS = 3
CREATE = "#operations-interactions-create_interaction_v1_retrievers_interactions_post"


def _create_with_key(browser: webdriver.Chrome, endpoint: str) -> dict[str, Any]:
    """Enter the key, run the example of create, and return the shown answer."""
    browser.get(f"{endpoint}/docs")
    wait = WebDriverWait(browser, PATIENCE_S)

    def element(selector: str) -> WebElement:
        return wait.until(condition.presence_of_element_located((By.CSS_SELECTOR, selector)))

    def click(selector: str, then: str) -> WebElement:
        """Click, again if the page was rendered meanwhile, and return the element that appears then."""
        for _ in range(ATTEMPTS):
            # A scripted click also hits elements that others cover.
            browser.execute_script("arguments[0].click()", element(selector))
            with suppress(TimeoutException):
                return element(then)
        raise AssertionError(f"{then} did not appear after a click on {selector}")

    element(CREATE)
    click("button.authorize", then="#auth-bearer-value").send_keys(KEY)
    click(".auth-btn-wrapper button.authorize", then="button[aria-label='Remove authorization']")
    click(".auth-btn-wrapper button.btn-done", then=f"{CREATE} button.opblock-summary-control")
    click(f"{CREATE} button.opblock-summary-control", then=f"{CREATE} button.execute")
    answer = click(f"{CREATE} button.execute", then=f"{CREATE} .live-responses-table .response .highlight-code pre")
    found: dict[str, Any] = json.loads(answer.text)
    return found


async def test_a_call_is_made_with_the_key_and_nothing_comes_from_elsewhere(
    browser: webdriver.Chrome, endpoint: str
) -> None:
    created = await in_browser(_create_with_key, browser, endpoint)
    assert created["interaction_id"].startswith("int_"), created
    script = "return performance.getEntriesByType('resource').map((each) => each.name)"
    loaded = await in_browser(browser.execute_script, script)
    assert {urlsplit(each).netloc for each in loaded if not each.startswith("data:")} == {urlsplit(endpoint).netloc}
    refused = [each for each in await in_browser(browser.get_log, "browser") if "Content Security" in each["message"]]
    assert refused == [], "the page does without what its policy forbids"
