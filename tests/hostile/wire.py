"""Raw HTTP client: sends bytes as they are and parses answers."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

ANSWER_S = 30.0


class Answer(NamedTuple):
    """An answer as it was sent."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """Body as JSON."""
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The message of an error."""
        return str(self.json["error"]["message"])


class Wire:
    """Raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, raw: bytes) -> None:
        """Send bytes. A closed connection is not an error: its answer is checked instead."""
        try:
            self._writer.write(raw)
            await self._writer.drain()
        except OSError:
            return

    def finish_sending(self) -> None:
        """Close for writing."""
        self._writer.write_eof()

    def reset(self) -> None:
        """Break off, as a client that crashes does."""
        self._writer.transport.abort()

    def stop_reading(self) -> None:
        """Stop reading the server's answers."""
        self._writer.transport.pause_reading()  # type: ignore[attr-defined]

    async def until_cut(self) -> None:
        """Keep sending blank lines until the server has broken the connection off."""
        async with asyncio.timeout(ANSWER_S):
            while not self._writer.is_closing():
                self._writer.write(b"\r\n")
                await asyncio.sleep(0.05)

    async def answer(self) -> Answer:
        """The next answer. Raises IncompleteReadError or OSError when the server closes without one."""
        async with asyncio.timeout(ANSWER_S):
            first, *lines = (await self._reader.readuntil(b"\r\n\r\n"))[:-4].split(b"\r\n")
            version, status, *_ = first.split(b" ")
            assert version == b"HTTP/1.1", first
            pairs = [line.split(b": ", 1) for line in lines]
            assert all(len(pair) == 2 for pair in pairs), lines
            headers = {name.decode().lower(): value.decode("latin-1") for name, value in pairs}
            assert len(headers) == len(pairs), f"a header came twice: {lines}"
            body = await self._reader.readexactly(int(headers.get("content-length", 0)))
        return Answer(int(status), headers, body)

    async def is_closed(self) -> bool:
        """Wait until the server closes; false if it sends data first."""
        async with asyncio.timeout(ANSWER_S):
            try:
                return not await self._reader.read(1)
            except OSError:
                return True

    async def answer_or_close(self) -> Answer | None:
        """The next answer; None when the server closes without one."""
        try:
            return await self.answer()
        except (asyncio.IncompleteReadError, OSError):
            return None

    def close(self) -> None:
        """Close it."""
        self._writer.close()


@asynccontextmanager
async def wire(host: str, port: int) -> AsyncIterator[Wire]:
    """A connection."""
    reader, writer = await asyncio.open_connection(host, port, limit=64 * 1024 * 1024)
    try:
        yield Wire(reader, writer)
    finally:
        writer.transport.abort()


def head(method: str, path: str, headers: Mapping[str, str] = {}) -> bytes:
    """A request without a body."""
    lines = [f"{method} {path} HTTP/1.1", "Host: t", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def chunk(data: bytes, extension: bytes = b"") -> bytes:
    """A chunk of a chunked body."""
    return b"%x%b\r\n%b\r\n" % (len(data), extension, data)
