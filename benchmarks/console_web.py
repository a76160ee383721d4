"""API and console of a benchmark as processes of their own, and requests of viewers who have signed in."""

import asyncio
import html
import re
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from http import HTTPStatus
from typing import NamedTuple

import httpx

from benchmarks.http_load import Connection, get, open_connection
from deploy.embedded.stack import Stack
from runtime import ports
from runtime.process.children import Child
from runtime.settings import Settings
from tally.web_process import start_api, start_console

STOP_S = 30.0
READY_S = 60.0
BROWSER_CONNECTIONS = 6
"""Connections of one page, as browsers open them for HTTP/1.1."""
MAX_ERROR_CHARACTERS = 300
_POLL_S = 0.1
_STYLES = re.compile(r'<link rel="stylesheet" href="(/[^"]+)"')
_SCRIPTS = re.compile(r'<script type="module" src="(/[^"]+)"')
_IMPORTS = re.compile(r'from "\./([\w.-]+)"')
_PANELS = re.compile(r'data-panel="([^"]+)"')


class Answer(NamedTuple):
    """Answer of the console, and the time that it took."""

    status: int
    body: bytes
    ms: float

    @property
    def error(self) -> str:
        """Status and text of an error; empty without one."""
        if self.status == HTTPStatus.OK:
            return ""
        text = " ".join(re.sub(r"<[^>]*>", " ", self.body.decode(errors="replace")).split())
        return f"{self.status} {text[:MAX_ERROR_CHARACTERS]}"


class Website(NamedTuple):
    """API and console that run, and the session of a viewer."""

    api: Child
    console: Child
    api_url: str
    url: str
    key: str
    cookie: tuple[str, str]
    """Name and value."""

    @property
    def port(self) -> int:
        """Port of the console."""
        return int(self.url.rpartition(":")[2])

    async def pipeline(self) -> dict[str, object]:
        """Return the state of the pipeline from the API itself. Raises httpx.HTTPError."""
        async with httpx.AsyncClient(trust_env=False, timeout=READY_S) as client:
            answer = await client.get(f"{self.api_url}/v1/pipeline", headers={"Authorization": f"Bearer {self.key}"})
            found: dict[str, object] = answer.raise_for_status().json()
            return found


class Viewer:
    """Connection of a viewer who has signed in, with one request in flight. It is opened again as browsers do."""

    def __init__(self, site: Website) -> None:
        self._port = site.port
        # The cookie's name has the port of the address, as browsers send it.
        self._headers = {"Host": f"127.0.0.1:{site.port}", "Cookie": "=".join(site.cookie)}
        self._connection: Connection | None = None

    async def get(self, path: str) -> Answer:
        """Get a path of the console. A lost connection is an answer with status 0."""
        begun = time.perf_counter()
        try:
            status, body = await self._request(path)
        except OSError as error:
            self.close()
            status, body = 0, str(error).encode()
        return Answer(status, body, (time.perf_counter() - begun) * 1000)

    async def _request(self, path: str) -> tuple[int, bytes]:
        """Send a request, once more if the server has closed a kept connection meanwhile. Raises OSError."""
        raw = get(path, self._headers)
        if self._connection is not None:
            try:
                return await self._connection.request(raw)
            except ConnectionResetError:
                self.close()
        self._connection = await open_connection(self._port)
        return await self._connection.request(raw)

    def close(self) -> None:
        """Close the connection, if open."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None


@contextmanager
def browser_connections(site: Website) -> Iterator[list[Viewer]]:
    """Yield as many connections as a browser opens for a page, and close them with the block."""
    connections = [Viewer(site) for _ in range(BROWSER_CONNECTIONS)]
    try:
        yield connections
    finally:
        for each in connections:
            each.close()


@asynccontextmanager
async def website(stack: Stack, settings: Settings) -> AsyncIterator[Website]:
    """Run an API and its console, each on a free port, and sign in. Raises TallyError."""
    children = list[Child]()
    try:
        api = await start_api(stack, settings, f"http://127.0.0.1:{ports.free_port()}")
        children.append(api.child)
        console = await start_console(stack, settings, f"http://127.0.0.1:{ports.free_port()}", api.url)
        children.append(console.child)
        key = settings.api_key.get_secret_value()
        site = Website(api.child, console.child, api.url, console.url, key, await _sign_in(console.url, key))
        await _until_observed(site)
        yield site
    finally:
        stack.children.stop_all(children, STOP_S)


async def _sign_in(url: str, key: str) -> tuple[str, str]:
    async with httpx.AsyncClient(trust_env=False, timeout=READY_S) as browser:
        answer = await browser.post(f"{url}/sign-in", data={"key": key}, headers={"Origin": url})
        for name, value in answer.cookies.items():
            return name, value
    raise RuntimeError(f"the console did not accept the key: status {answer.status_code}")


async def _until_observed(site: Website) -> None:
    """Wait until the API knows the progress of the workers."""
    deadline = time.monotonic() + READY_S
    while (await site.pipeline())["as_of"] is None:
        if time.monotonic() > deadline:
            raise RuntimeError(f"the API has not observed the topic within {READY_S:.0f} s")
        await asyncio.sleep(_POLL_S)


class PageCost(NamedTuple):
    """Cost of a page until its panels load, for a browser without cached assets. Sizes in bytes, times in ms."""

    html_bytes: int
    style_bytes: int
    script_bytes: int
    requests: int
    html_ms: float
    first_paint_ms: float
    """Time of the HTML and the style sheets, which is all that the first paint needs."""
    scripts_ms: float
    """Time until the last script, since the request of the page."""


async def load_page(site: Website, path: str) -> tuple[PageCost, Sequence[str]]:
    """Load a page with its assets as a browser does; return its cost and the addresses of its panels."""
    with browser_connections(site) as connections:
        begun = time.perf_counter()
        page = await connections[0].get(path)
        if page.error:
            raise RuntimeError(f"{path} failed: {page.error}")
        text = page.body.decode()
        styles = await _together(connections, _STYLES.findall(text))
        painted_ms = (time.perf_counter() - begun) * 1000
        scripts = dict[str, Answer]()
        wanted = _SCRIPTS.findall(text)
        while wanted:
            loaded = await _together(connections, wanted)
            scripts |= loaded
            folder = wanted[0].rpartition("/")[0]
            names = (name for each in loaded.values() for name in _IMPORTS.findall(each.body.decode()))
            wanted = [path for name in dict.fromkeys(names) if (path := f"{folder}/{name}") not in scripts]
        scripts_ms = (time.perf_counter() - begun) * 1000
    style_bytes, script_bytes = (sum(len(each.body) for each in some.values()) for some in (styles, scripts))
    requests = 1 + len(styles) + len(scripts)
    cost = PageCost(len(page.body), style_bytes, script_bytes, requests, page.ms, painted_ms, scripts_ms)
    return cost, [html.unescape(each) for each in _PANELS.findall(text)]


async def load_panels(site: Website, paths: Sequence[str]) -> tuple[float, dict[str, Answer]]:
    """Load panels at the same time, as a browser does. Return the time of all in ms, and each answer."""
    with browser_connections(site) as connections:
        begun = time.perf_counter()
        found = await _together(connections, paths)
        return (time.perf_counter() - begun) * 1000, found


async def _together(connections: Sequence[Viewer], paths: Sequence[str]) -> dict[str, Answer]:
    """Get paths at the same time, over connections that each have one request in flight."""
    waiting, found = list(reversed(paths)), dict[str, Answer]()

    async def get_all(connection: Viewer) -> None:
        while waiting:
            path = waiting.pop()
            found[path] = await connection.get(path)

    await asyncio.gather(*map(get_all, connections[: len(paths)]))
    return {path: found[path] for path in paths}
