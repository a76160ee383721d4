"""The console on a test's API: both as servers of this process, and a browser without a screen."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from pydantic import SecretStr

from console.app import create_app
from console.settings import ConsoleSettings
from tests.http_lab import lifespan

SECRET = "a secret of sixteen characters"  # noqa: S105
ORIGIN = "http://console"


@asynccontextmanager
async def console_client(
    api: str, transport: httpx.AsyncBaseTransport | None = None
) -> AsyncIterator[httpx.AsyncClient]:
    """A browser of the console of an API; `transport` replaces the network between both."""
    app = create_app(ConsoleSettings(api=api, secrets=(SecretStr(SECRET),)), transport)
    headers = {"Sec-Fetch-Site": "same-origin"}
    async with (
        lifespan(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=ORIGIN, headers=headers) as browser,
    ):
        yield browser


async def sign_in(browser: httpx.AsyncClient, key: str, back: str = "/") -> httpx.Response:
    """Enter a key; returns the answer without following it."""
    return await browser.post("/sign-in", data={"key": key, "back": back})
