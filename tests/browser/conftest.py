"""The browser, a site that writes to a running API, and the console."""

import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from aiokafka import AIOKafkaProducer
from pytest import TempPathFactory
from selenium import webdriver

from deploy.embedded.stack import Stack
from runtime import kafka
from runtime.clickhouse import ClickHouse, connect
from tests.browser.console_lab import COLLECT, ConsolePage, ConsoleSite, console_site
from tests.browser.pages_lab import SNIPPET, Site, pages
from tests.http_lab import BEARER, consuming, served, with_key
from tests.lab import Lab, Tables, settings_of_its_own


@contextmanager
def _chromium() -> Iterator[webdriver.Chrome]:
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
def browser() -> Iterator[webdriver.Chrome]:
    """A browser for one test."""
    with _chromium() as running:
        yield running


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


@pytest.fixture(scope="session")
async def console(
    stack: Stack, server: ClickHouse, raw_producer: AIOKafkaProducer, tables: Tables, tmp_path_factory: TempPathFactory
) -> AsyncIterator[ConsoleSite]:
    """A console with its API and a worker, shared by all its tests."""
    folder = tmp_path_factory.mktemp("console")
    settings = settings_of_its_own(stack, folder)
    await kafka.create_topics(settings)
    await tables.create_in(server, settings.database)
    async with connect(settings) as database, console_site(Lab(settings, database, raw_producer), folder) as site:
        yield site


@pytest.fixture(scope="session")
def console_browser() -> Iterator[webdriver.Chrome]:
    """A browser for all tests of the console."""
    with _chromium() as running:
        running.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": COLLECT})
        yield running


@pytest.fixture
async def page(console: ConsoleSite, console_browser: webdriver.Chrome) -> AsyncIterator[ConsolePage]:
    """A page of a viewer who has signed in with a key of all scopes."""
    page = ConsolePage(console_browser, console.origin)
    await page.reset()
    await page.sign_in()
    yield page
    await page.reset()
