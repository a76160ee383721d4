"""A page with the snippet, in headless Chromium: what a person does on it comes back by id."""

import asyncio
import functools
import http.server
import shutil
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By

from runtime.keys import ROOT, PageToken, hash_of
from tests.http_lab import BEARER, KEY, PATH, consuming, served, with_key
from tests.lab import Lab
from tests.waiting import eventually, eventually_async

SNIPPET = Path(__file__).parent.parent.parent / "producers" / "browser" / "tally.js"
PAGE = """<!doctype html><title>results</title>
<style>div {{ height: 200px; display: flex; align-items: end }} </style>
<script src="tally.js"></script>
{results}
<script>
const tally = Tally({{endpoint: "{endpoint}", token: "{token}", every: {every},
    context: {{execution_id: "{execution}", user_id: "ada", retriever_id: "hybrid"}}}});
tally.observe(document.querySelectorAll("[data-tally-id]"));
</script>
"""


@pytest.fixture
def browser() -> Iterator[webdriver.Chrome]:
    """Debian's Chromium, driven by Debian's driver: nothing is downloaded."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.fail("install Chromium and its driver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=800,600"):
        options.add_argument(argument)
    running = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        yield running
    finally:
        running.quit()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_args: Any) -> None:
        pass


@contextmanager
def pages(folder: Path) -> Iterator[str]:
    """A site of its own origin."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


class Site:
    """Where the page is, and the API behind it."""

    def __init__(self, folder: Path, origin: str, api: httpx.AsyncClient) -> None:
        self._folder = folder
        self.origin = origin
        self.api = api
        self.token = PageToken.until(ROOT, "default", origin, 600).signed(hash_of(KEY))

    def page(self, execution: str, endpoint: str, every: int = 100) -> str:
        """The address of a page with five results, of which two can be seen."""
        results = "".join(
            f'<div data-tally-id="doc-{n}" data-tally-position="{n}">{n}<a>go</a></div>' for n in range(5)
        )
        text = PAGE.format(results=results, endpoint=endpoint, token=self.token, execution=execution, every=every)
        (self._folder / f"{execution}.html").write_text(text)
        return f"{self.origin}/{execution}.html"

    async def until(self, execution: str, wanted: set[tuple[str, str]]) -> list[dict[str, Any]]:
        """Wait until these (type, feature) are stored; returns the records."""
        found: list[dict[str, Any]] = []

        async def is_there() -> bool:
            answer = await self.api.post(f"{PATH}/list", json={"execution_id": execution})
            found[:] = answer.json()["results"]
            return {(each["interaction_type"][0], each["feature_id"]) for each in found} >= wanted

        try:
            await eventually_async(is_there)
        except TimeoutError:
            raise AssertionError(f"stored are {[(e['interaction_type'], e['feature_id']) for e in found]}") from None
        return found


@pytest.fixture
async def endpoint(lab: Lab) -> AsyncIterator[str]:
    """The API, with a worker behind it."""
    async with served(with_key(lab.settings)) as url, consuming(lab.settings):
        yield url


@pytest.fixture
async def site(endpoint: str, tmp_path: Path) -> AsyncIterator[Site]:
    (tmp_path / "tally.js").write_text(SNIPPET.read_text())
    async with httpx.AsyncClient(base_url=endpoint, headers=BEARER) as api:
        with pages(tmp_path) as origin:
            yield Site(tmp_path, origin, api)


async def in_browser(call: Callable[..., Any], *args: Any) -> Any:
    return await asyncio.to_thread(call, *args)


def test_the_snippet_is_small() -> None:
    assert SNIPPET.stat().st_size < 3_000


async def test_real_clicks_come_back_by_id(browser: webdriver.Chrome, site: Site, endpoint: str) -> None:
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


async def test_leaving_the_page_sends_what_is_left_and_how_long_it_was_looked_at(
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


async def test_what_could_not_be_sent_is_sent_again(
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


async def test_another_sites_page_may_not_write(browser: webdriver.Chrome, site: Site, endpoint: str) -> None:
    site.token = PageToken.until(ROOT, "default", "https://shop.example", 600).signed(hash_of(KEY))
    await in_browser(browser.get, site.page("search-4", endpoint))
    await in_browser(eventually, lambda: browser.execute_script("return tally.dropped") >= 1)
    assert (await site.api.post(f"{PATH}/list", json={"execution_id": "search-4"})).json()["results"] == []
