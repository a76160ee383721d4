"""A page of live events in headless Chromium, driven by Selenium: its looks, rows and memory. Its methods block."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from selenium import webdriver
from selenium.common.exceptions import WebDriverException

from benchmarks.console_web import Website
from benchmarks.meter import resident_bytes

_COUNTING = """
window.tallyLooks = {looks: 0, failed: 0, counted: 0, shown: 0, skipped: 0};
const original = window.fetch;
window.fetch = async (...given) => {
  const answer = await original(...given);
  if (String(given[0]).includes("/live/events")) {
    const total = window.tallyLooks, found = await answer.clone().json();
    total.looks++;
    if (!answer.ok) { total.failed++; return answer; }
    total.counted += Object.values(found.counts).reduce((left, right) => left + right, 0);
    total.shown += found.shown;
    total.skipped += found.skipped;
  }
  return answer;
};
"""
"""Script that counts what the page receives, before the page's own scripts run."""
_STATE = """
return {...window.tallyLooks, rows: document.querySelectorAll("[data-rows] tbody tr").length,
  heap_bytes: performance.memory?.usedJSHeapSize ?? 0,
  status: document.querySelector("[data-live-status]").textContent};
"""


class BrowserUnavailableError(Exception):
    """No Chromium or no driver, or one that does not start."""


class PageState(NamedTuple):
    """State of the page: its looks since the start and the events in them, its rows, and its memory in bytes."""

    looks: int
    failed: int
    counted: int
    shown: int
    skipped: int
    rows: int
    heap_bytes: int
    renderer_bytes: int
    """Resident memory of the page's process."""
    status: str


class LivePage:
    """Page of live events."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self._driver = driver

    def state(self) -> PageState:
        """Return the state. Raises BrowserUnavailableError."""
        try:
            found = self._driver.execute_script(_STATE)
        except WebDriverException as error:
            raise BrowserUnavailableError(f"the page does not answer: {_reason(error)}") from error
        renderers = [pid for pid in _descendants(self._driver.service.process.pid) if _is_renderer(pid)]
        # The page's process is the largest: others are spares without a page.
        return PageState(**found, renderer_bytes=max(map(resident_bytes, renderers), default=0))


def _open() -> webdriver.Chrome:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        raise BrowserUnavailableError("no Chromium with its driver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,900"):
        options.add_argument(argument)
    try:
        return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    except WebDriverException as error:
        raise BrowserUnavailableError(f"Chromium does not start: {_reason(error)}") from error


@contextmanager
def live_page(site: Website) -> Iterator[LivePage]:
    """Open the page until the block ends. Raises BrowserUnavailableError."""
    driver = _open()
    try:
        name, value = site.cookie
        driver.get(f"{site.url}/sign-in")
        driver.add_cookie({"name": name, "value": value})
        driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": _COUNTING})
        driver.get(f"{site.url}/live")
        yield LivePage(driver)
    except WebDriverException as error:
        raise BrowserUnavailableError(_reason(error)) from error
    finally:
        driver.quit()


def _reason(error: WebDriverException) -> str:
    return (error.msg or str(error)).splitlines()[0]


def _descendants(pid: int) -> list[int]:
    """Return the processes that a process has started, and those that these have started."""
    parents = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
    found, added = list[int](), [pid]
    while added:
        added = [child for child, parent in parents.items() if parent in added]
        found += added
    return found


def _is_renderer(pid: int) -> bool:
    try:
        return re.search(rb"--type=renderer", Path(f"/proc/{pid}/cmdline").read_bytes()) is not None
    except (FileNotFoundError, ProcessLookupError):
        return False
