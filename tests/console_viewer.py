"""A viewer of the console who has signed in, on a live API with a worker."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from runtime import kafka
from schemas.wire import NAMESPACE_HEADER
from tests.console_lab import console_client, sign_in
from tests.http_lab import EVENT, KEY, PATH, api_of, consuming, until_keys_are_known, with_key
from tests.lab import Lab
from tests.waiting import eventually_async


class Viewer:
    """A viewer who has signed in, beside the API, with a worker on the topic."""

    def __init__(self, lab: Lab, api: httpx.AsyncClient, browser: httpx.AsyncClient) -> None:
        self.lab = lab
        self.api = api
        self.browser = browser

    async def send(self, **fields: Any) -> str:
        """Send an event, and return its id once a worker has decided about it."""
        answer = await self.api.post(PATH, json=EVENT | fields, headers={"Prefer": "wait=10"})
        assert answer.status_code == 200, answer.text
        return answer.headers["x-interaction-id"]

    async def put(self, value: bytes, namespace: bytes = b"default") -> tuple[int, int]:
        """Put a record on the topic as another Kafka client would, and return its place."""
        async with kafka.producer(self.lab.settings) as producer:
            done = await producer.send_and_wait(
                self.lab.settings.topic, value, key=b"k", headers=[(NAMESPACE_HEADER, namespace)]
            )
        return done.partition, done.offset

    async def see(self, path: str, status: int = 200, **query: Any) -> str:
        """Return a page or panel as text."""
        answer = await self.browser.get(path, params=query)
        assert answer.status_code == status, answer.text
        return answer.text

    async def first_look(self) -> dict[str, Any]:
        """Return the first answer of the live events, once the API has observed its consumers."""
        found: dict[str, Any] = {}

        async def is_answered() -> bool:
            nonlocal found
            found = (await self.browser.get("/live/events")).json()
            return "cursor" in found

        await eventually_async(is_answered)
        return found

    async def until_seen(self, path: str, pattern: str, **query: Any) -> str:
        """Wait until a page or panel matches, and return it."""
        found = ""

        async def is_seen() -> bool:
            nonlocal found
            found = (await self.browser.get(path, params=query)).text
            return re.search(pattern, found, re.DOTALL) is not None

        await eventually_async(is_seen)
        return found


@asynccontextmanager
async def viewer_of(lab: Lab) -> AsyncIterator[Viewer]:
    """A viewer with the key TALLY_API_KEY; a replay handles two letters at a time."""
    async with (
        api_of(with_key(lab.settings, replay_letters=2)) as api,
        consuming(lab.settings),
        console_client("http://t", api._transport) as browser,
    ):
        await until_keys_are_known(api)
        await sign_in(browser, KEY)
        yield Viewer(lab, api, browser)
