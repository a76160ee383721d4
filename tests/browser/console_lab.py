"""The console as people use it: the API with a worker, the console as a process, and a browser."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
from selenium import webdriver
from selenium.common.exceptions import NoAlertPresentException, TimeoutException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from runtime.ports import free_port
from tests.browser.pages_lab import in_browser
from tests.http_lab import BEARER, EVENT, KEY, PATH, consuming, served, with_key
from tests.lab import Lab, Place
from tests.waiting import until_it_answers

PATIENCE_S = 60
WIDE, NARROW = 1280, 390
"""Widths of a screen and of a phone in CSS pixels."""
SHOWN = """return [...document.querySelectorAll(arguments[0])].find((each) => each.checkVisibility()
    && (each.innerText ?? each.textContent).replace(/\\s+/g, " ").includes(arguments[1])) ?? null"""
LOADED = "return !document.querySelector('[data-panel]:not([aria-busy=false])')"
COLLECT = """window.refused = [];
document.addEventListener("securitypolicyviolation", (each) =>
    refused.push(`${each.violatedDirective} ${each.blockedURI}`));"""


class ConsoleSite:
    """API, worker and console of one run. The API can be stopped, and started again at the same address."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._settings = with_key(lab.settings)
        self._port = free_port()
        self._serving = AsyncExitStack()
        self.api = httpx.AsyncClient(base_url=f"http://127.0.0.1:{self._port}", headers=BEARER, timeout=60)
        self.origin = ""

    async def start_api(self) -> None:
        """Serve the API."""
        await self._serving.enter_async_context(served(self._settings, port=self._port))

    async def stop_api(self) -> None:
        """Stop serving."""
        await self._serving.aclose()

    async def send(self, **fields: Any) -> str:
        """Send an event, and return its id once a worker has decided about it."""
        answer = await self.api.post(PATH, json=EVENT | fields, headers={"Prefer": "wait=60"})
        assert answer.status_code == 200, answer.text
        return answer.headers["x-interaction-id"]

    async def put(self, value: bytes, headers: Sequence[tuple[str, bytes]] = ()) -> Place:
        """Put a record on the topic as another Kafka client would."""
        return await self._lab.put(value, headers=headers)

    async def key(self, *scopes: str, name: str = "viewer") -> tuple[str, str]:
        """Create a key, and return it with its id."""
        body = {"name": name, "scopes": scopes, "namespaces": ["default"]}
        answer = await self.api.post("/v1/keys", json=body)
        assert answer.is_success, answer.text
        return answer.json()["key"], answer.json()["key_id"]


@asynccontextmanager
async def console_site(lab: Lab, folder: Path) -> AsyncIterator[ConsoleSite]:
    """Serve all of it."""
    site = ConsoleSite(lab)
    await site.start_api()
    try:
        process = _console_process(str(site.api.base_url), folder / "console.log")
        async with consuming(lab.settings), site.api, process as site.origin:
            yield site
    finally:
        await site.stop_api()


@asynccontextmanager
async def _console_process(api: str, log: Path) -> AsyncIterator[str]:
    """Run a console process that logs no failure, and yield its address."""
    port = free_port()
    environment = os.environ | {"TALLY_CONSOLE_API": api, "TALLY_CONSOLE_REFRESH_EVERY_MS": "500"}
    command = [sys.executable, "-P", "-m", "console", "--port", str(port)]
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(*command, env=environment, stderr=output)
        try:
            address = f"http://127.0.0.1:{port}"
            await until_it_answers(f"{address}/ready")
            yield address
        finally:
            process.terminate()
            await process.wait()
    assert "Traceback" not in (lines := _text_of(log)), lines


def _text_of(path: Path) -> str:
    return path.read_text()


class ConsolePage:
    """A browser at the console. Every wait has a deadline; its error shows the page."""

    def __init__(self, driver: webdriver.Chrome, origin: str) -> None:
        self._driver = driver
        self._origin = origin

    async def open(self, path: str) -> None:
        """Open a page, and wait for its panels."""
        await in_browser(self._driver.get, self._origin + path)
        await self.until_loaded()

    async def until_loaded(self) -> None:
        """Wait for the panels of the page."""
        await self.until(LOADED)

    async def sign_in(self, key: str = KEY, back: str = "/") -> None:
        """Sign in as people do. A key that was created just now is unknown for a moment: it is entered again."""
        await self.open(f"/sign-in?back={back}")
        for _ in range(PATIENCE_S):
            await self.type("#key", key)
            await self.click("main button.primary")
            await self.until("return document.querySelector('nav.screens, #problem') !== null")
            if await self.run("return document.querySelector('#problem') === null"):
                return
        raise AssertionError("the console does not accept the key")

    async def run(self, script: str, *arguments: Any) -> Any:
        """Return the value of a script in the page."""
        return await in_browser(self._driver.execute_script, script, *arguments)

    async def until(self, script: str, *arguments: Any) -> Any:
        """Wait until a script returns a true value, and return it."""
        wait = WebDriverWait(self._driver, PATIENCE_S, poll_frequency=0.05)
        try:
            return await in_browser(wait.until, lambda driver: driver.execute_script(script, *arguments))
        except TimeoutException:
            page = await self.run("return `${location}\\n${document.body.innerText.slice(0, 3000)}`")
            raise AssertionError(f"not within {PATIENCE_S} s: {script} {arguments}\n{page}") from None

    async def shown(self, selector: str, text: str = "") -> WebElement:
        """Wait for a visible element with this text, and return it."""
        found: WebElement = await self.until(SHOWN, selector, text)
        return found

    async def click(self, selector: str, text: str = "") -> None:
        """Click a visible element with this text."""
        await in_browser((await self.shown(selector, text)).click)

    async def type(self, selector: str, text: str) -> None:
        """Replace the text of a field, key by key."""
        field = await self.shown(selector)
        await in_browser(field.clear)
        await in_browser(field.send_keys, text)

    async def press(self, *keys: str) -> None:
        """Press keys, wherever the focus is."""
        for key in keys:
            await in_browser(ActionChains(self._driver).send_keys(key).perform)

    async def emulate(self, command: str, **values: Any) -> Any:
        """Give a command to the browser's DevTools."""
        return await in_browser(self._driver.execute_cdp_cmd, command, values)

    async def resize(self, width: int) -> None:
        """Set the width of the window."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        await self.emulate("Emulation.setDeviceMetricsOverride", **size)

    async def use_colours(self, scheme: str) -> None:
        """Set the colours of the system: light or dark."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        await self.emulate("Emulation.setEmulatedMedia", features=features)

    async def problems(self, *statuses: int) -> list[str]:
        """Return what the browser has complained about since the last call, without responses of these statuses."""
        expected = tuple(f"the server responded with a status of {status} " for status in statuses)
        entries = await in_browser(self._driver.get_log, "browser")
        found = [each["message"] for each in entries if not any(text in each["message"] for text in expected)]
        return found + list(await self.run("return window.refused ?? []"))

    async def width_beyond(self) -> int:
        """Return the CSS pixels by which the page is wider than the window."""
        beyond: int = await self.run(
            "const page = document.documentElement; return page.scrollWidth - page.clientWidth"
        )
        return beyond

    async def has_dialog(self) -> bool:
        """Return whether a dialog is open."""
        with suppress(NoAlertPresentException):
            await in_browser(lambda: self._driver.switch_to.alert)
            return True
        return False

    async def reset(self) -> None:
        """Forget cookies, and go back to the size, colours, zone and language of a new window."""
        await self.emulate("Network.clearBrowserCookies")
        await self.emulate("Emulation.setTimezoneOverride", timezoneId="")
        await self.emulate("Emulation.setLocaleOverride")
        await self.use_colours("light")
        await self.resize(WIDE)
        await in_browser(self._driver.get, "about:blank")
        await in_browser(self._driver.get_log, "browser")
