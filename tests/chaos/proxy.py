"""TCP proxy in front of one store. It delays, cuts and loses connections on request."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

CHUNK = 64 * 1024


class Proxy:
    """Proxy of a store on this machine. Changes apply to later requests."""

    def __init__(self, port: int) -> None:
        self._store_port = port
        self._open: set[asyncio.StreamWriter] = set()
        self._answers = asyncio.Event()
        self._answers.set()
        self._hold: asyncio.Event | None = None
        self.port = 0
        self.refusing = False
        """New connections are closed at once."""
        self.cut_requests_after: int | None = None
        """The next requests are cut off after this many bytes, and their connection with them."""
        self.lost_answers = 0
        """Number of further answers to drop, with their connections: the store did it, the client cannot know."""
        self.canned: list[bytes] = []
        """Answers to give instead of passing a request on."""
        self.canned_for = b""
        """To requests alone that have these bytes in them."""
        self.renamed = (b"", b"")
        """Bytes of responses, and their replacements of the same length."""
        self.delay_s = 0.0
        """Delay of every chunk."""

    def cut(self) -> None:
        """Reset every connection that is open."""
        for writer in list(self._open):
            transport = writer.transport
            transport.abort()

    def hold_answers(self) -> None:
        """Requests reach the store, answers do not come back until `release_answers`."""
        self._answers.clear()

    def release_answers(self) -> None:
        """Release held answers."""
        self._answers.set()

    def hold_requests(self) -> asyncio.Event:
        """Hold later requests until the event is set, even if their sender has died."""
        self._hold = asyncio.Event()
        return self._hold

    def pass_requests(self) -> None:
        """Pass new requests again; waiting ones continue to wait."""
        self._hold = None

    def pass_everything(self) -> None:
        """Stop all faults and pass everything on."""
        self.refusing, self.cut_requests_after, self.lost_answers, self.delay_s = False, None, 0, 0.0
        self.canned.clear()
        self.release_answers()
        self.pass_requests()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a connection."""
        if self.refusing:
            writer.transport.abort()
            return
        try:
            store_reader, store_writer = await asyncio.open_connection("127.0.0.1", self._store_port)
        except OSError:
            writer.transport.abort()
            return
        both = {writer, store_writer}
        self._open |= both
        ways = [
            asyncio.create_task(self._requests(reader, store_writer, writer)),
            asyncio.create_task(self._replies(store_reader, writer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            self._open -= both
            for each in both:
                each.transport.abort()

    async def _requests(
        self, reader: asyncio.StreamReader, store: asyncio.StreamWriter, client: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(CHUNK):
                await asyncio.sleep(self.delay_s)
                if self._hold is not None:
                    await self._hold.wait()
                if self.canned and self.canned_for in chunk:
                    client.write(self.canned.pop())
                    await client.drain()
                    return
                if self.cut_requests_after is not None and len(chunk) > self.cut_requests_after:
                    store.write(chunk[: self.cut_requests_after])
                    self.cut_requests_after = None
                    await store.drain()
                    return
                store.write(chunk)
                await store.drain()

    async def _replies(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(CHUNK):
                await asyncio.sleep(self.delay_s)
                await self._answers.wait()
                if self.lost_answers:
                    self.lost_answers -= 1
                    return
                client.write(chunk.replace(*self.renamed) if self.renamed[0] else chunk)
                await client.drain()


@asynccontextmanager
async def proxy_to(port: int) -> AsyncIterator[Proxy]:
    """A proxy that listens on a free port of this machine."""
    proxy = Proxy(port)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        proxy.pass_everything()
        proxy.cut()
        await server.wait_closed()
