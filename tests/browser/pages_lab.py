"""Pages with the snippet, and the browser that opens them."""

import asyncio
import functools
import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from runtime.http.keys import ROOT, PageToken, hash_of
from tests.http_lab import KEY, PATH
from tests.waiting import eventually_async

SNIPPET = Path(__file__).parent.parent.parent / "clients" / "browser" / "tally.js"
PAGE = """<!doctype html><title>results</title>
<style>div {{ height: 200px; display: flex; align-items: end }} </style>
<script>{before}</script>
<script src="tally.js"></script>
{results}
<script>
const errors = [];
const start = (more) => Tally({{endpoint: "{endpoint}", token: "{token}", every: {every},
    onError: (text) => errors.push(text),
    context: {{execution_id: "{execution}", user_id: "ada", retriever_id: "hybrid"}}, ...more}});
const tally = start({{}});
tally.observe(document.querySelectorAll("[data-tally-id]"));
</script>
"""


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
    """A folder of pages, their origin, and the API that they write to."""

    def __init__(self, folder: Path, origin: str, api: httpx.AsyncClient) -> None:
        self._folder = folder
        self.origin = origin
        self.api = api
        self.token = self.token_for(600)

    def token_for(self, life_s: int, origin: str | None = None) -> str:
        """A page token for `seconds`; one for a negative number has expired."""
        return PageToken.until(ROOT, "default", origin or self.origin, life_s).signed(hash_of(KEY))

    def page(self, execution: str, endpoint: str, every: int = 100, before: str = "") -> str:
        """The address of a page with five results, of which two can be seen; `before` runs before the snippet."""
        results = "".join(
            f'<div data-tally-id="doc-{n}" data-tally-position="{n}">{n}<a>go</a></div>' for n in range(5)
        )
        text = PAGE.format(
            results=results, endpoint=endpoint, token=self.token, execution=execution, every=every, before=before
        )
        (self._folder / f"{execution}.html").write_text(text)
        return f"{self.origin}/{execution}.html"

    async def until(self, execution: str, wanted: set[tuple[str, str]]) -> list[dict[str, Any]]:
        """Wait until these (type, feature) are stored; returns the records."""
        found: list[dict[str, Any]] = []

        async def is_there() -> bool:
            answer = await self.api.post(f"{PATH}/list?limit=1000", json={"execution_id": execution})
            found[:] = answer.json()["results"]
            return {(each["interaction_type"][0], each["feature_id"]) for each in found} >= wanted

        try:
            await eventually_async(is_there)
        except TimeoutError:
            raise AssertionError(f"stored are {[(e['interaction_type'], e['feature_id']) for e in found]}") from None
        return found


async def in_browser(call: Callable[..., Any], *args: Any) -> Any:
    """Run a blocking call of the driver in a thread."""
    return await asyncio.to_thread(call, *args)
