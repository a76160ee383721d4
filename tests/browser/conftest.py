"""The browser, and a site that writes to a running API."""

import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from selenium import webdriver

from tests.browser.pages_lab import SNIPPET, Site, pages
from tests.http_lab import BEARER, consuming, served, with_key
from tests.lab import Lab


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


@pytest.fixture
async def endpoint(lab: Lab) -> AsyncIterator[str]:
    """The API, with a worker that stores its events."""
    async with served(with_key(lab.settings)) as url, consuming(lab.settings):
        yield url


@pytest.fixture
async def site(endpoint: str, tmp_path: Path) -> AsyncIterator[Site]:
    """Pages with the snippet."""
    (tmp_path / "tally.js").write_text(SNIPPET.read_text())
    async with httpx.AsyncClient(base_url=endpoint, headers=BEARER) as api:
        with pages(tmp_path) as origin:
            yield Site(tmp_path, origin, api)
