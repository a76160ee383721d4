"""The console on a test's API: both as servers of this process, and a browser without a screen."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from pydantic import SecretStr

from console.app import create_app
from console.settings import ConsoleSettings
from runtime.settings import Settings
from tests.http_lab import KEY, api_of, lifespan, with_key

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


@asynccontextmanager
async def console_of(settings: Settings, **overrides: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A browser that has signed in to the console of an API in this process."""
    async with api_of(with_key(settings, **overrides)) as api, console_client("http://t", api._transport) as browser:
        await sign_in(browser, KEY)
        yield browser


async def sign_in(browser: httpx.AsyncClient, key: str, back: str = "/") -> httpx.Response:
    """Enter a key; returns the answer without following it."""
    return await browser.post("/sign-in", data={"key": key, "back": back})
