"""Responses of any size, sent as fast as the client reads, with bounded memory."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager

from fastapi import Response
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from runtime.errors import TallyError
from runtime.http.errors import ApiError
from runtime.tasks import cancel_and_wait

Body = Callable[[], AbstractAsyncContextManager[AsyncIterator[bytes]]]

log = logging.getLogger("tally.api")


class StreamedResponse(Response):
    """Response 200 whose body is opened once the response is sent.

    An error of opening the body is raised, and becomes a response of its own. A later one is logged, and ends
    the response without its last chunk, so that no client takes it for complete. The body is closed at once when the
    client leaves.
    """

    def __init__(self, body: Body, headers: Mapping[str, str]) -> None:
        super().__init__(headers=dict(headers))
        del self.headers["content-length"]
        self._open_body = body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response. Raises ClientDisconnect."""
        sending = asyncio.create_task(self._send(scope, send))
        leaving = asyncio.create_task(_until_disconnected(receive))
        try:
            await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not sending.done():
                raise ClientDisconnect
            await sending
        finally:
            await cancel_and_wait(sending, leaving)

    async def _send(self, scope: Scope, send: Send) -> None:
        has_begun = False
        try:
            async with self._open_body() as pieces:
                has_begun = True
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                if scope["method"] != "HEAD":  # it is GET until the response begins
                    async for piece in pieces:
                        await send({"type": "http.response.body", "body": piece, "more_body": True})
        except (TallyError, ApiError) as error:
            if not has_begun:
                raise
            log.warning("broke off the response to %s after its first byte: %s", scope["path"], error)
        else:
            await send({"type": "http.response.body", "body": b""})


async def _until_disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
