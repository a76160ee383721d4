"""Connections that send too much before a request, too slowly, or are too many."""

import asyncio
import json

from tests.hostile.http_target import CREATE, FILES, HEALTH, Case, Target
from tests.hostile.wire import Answer, Wire, head
from tests.http_lab import BEARER, EVENT, PATH

KIB, MIB = 1024, 1024 * 1024


async def endless_heads(target: Target) -> None:
    """A head that is too large, in one header, in many or in its URL, is refused with 431 or 414 before it ends."""
    for raw in (
        head("GET", "/v1/health", {"X-Long": "x" * 40 * KIB}),
        b"GET /v1/health HTTP/1.1\r\nX-Endless: " + b"x" * 3 * MIB,
        b"GET /v1/health HTTP/1.1\r\n" + b"a: b\r\n" * 200_000,
        b"GET /v1/health HTTP/1.1\r\n" + b"x" * MIB,
        b"GET /v1/health HTTP/1.1\r\n" + b"".join(b"X-%d: 1\r\n" % number for number in range(101)) + b"\r\n",
    ):
        await target.refuses(raw, 431, 400)
    await target.refuses(head("GET", "/" + "x" * 40 * KIB), 414)
    await target.refuses(b"GET /" + b"x" * 3 * MIB, 414)
    many = {f"X-{number}": "1" for number in range(95)}
    async with target.wire() as wire:
        await wire.send(head("GET", "/v1/health", many | {"X-Long": "x" * 30_000}))
        assert (await wire.answer()).status == 200, "what is within the bounds is answered"


async def a_slow_head(target: Target) -> None:
    """A head that arrives byte by byte is answered 408 after the time limit; blanks count as well."""
    async with target.wire() as wire, target.wire() as blanks, target.wire() as second:
        await second.send(HEALTH)
        assert (await second.answer()).status == 200

        async def drip(slow: Wire, raw: bytes) -> None:
            while True:
                await slow.send(raw)
                await asyncio.sleep(0.05)

        dripping = [asyncio.create_task(drip(slow, b"G")) for slow in (wire, second)]
        dripping.append(asyncio.create_task(drip(blanks, b"\r\n")))
        await wire.send(b"GET /v1/health HTTP/1.1\r\nX-Slow: ")
        await second.send(b"GET /v1/health HTTP/1.1\r\nX-Slow: ")
        try:
            for slow in (wire, second, blanks):
                answer = await slow.answer()
                assert answer.status == 408, answer
                assert "TALLY_HTTP_HEAD_TIMEOUT_MS" in answer.error
        finally:
            for each in dripping:
                each.cancel()


async def silent_connections(target: Target) -> None:
    """A connection on which nothing comes is closed, a new one as well as one that was used."""
    async with target.wire() as fresh, target.wire() as used:
        await used.send(HEALTH)
        assert (await used.answer()).status == 200
        assert await fresh.is_closed()
        assert await used.is_closed()


async def missing_bodies(target: Target) -> None:
    """A body that stops or arrives slowly is answered 408; an unread body has the same time limit."""
    length = {"Content-Length": "100000"}
    async with target.wire() as stopped, target.wire() as unread:
        await stopped.send(head("POST", PATH, BEARER | length) + b"{")
        await unread.send(head("GET", "/v1/health", length) + b"{")
        assert (await unread.answer()).status == 200
        assert (await stopped.answer()).status == 408
        assert await unread.is_closed()
        assert await stopped.is_closed()


async def flood(target: Target) -> list[Answer]:
    """Open more connections than the API serves, send a request on each, and keep all open until the last answer."""
    count = FILES + 100
    all_answered = asyncio.Barrier(count + 1)

    async def one() -> Answer | None:
        async with target.wire() as wire:
            await wire.send(CREATE)
            answer = await wire.answer_or_close()
            await all_answered.wait()
            return answer

    async with asyncio.TaskGroup() as group:
        clients = [group.create_task(one()) for _ in range(count)]
        await all_answered.wait()
        assert (await target.call("GET", "/v1/health")).status == 200, "who lives is not taken for dead"
    return [answer for client in clients if (answer := client.result()) is not None]


async def more_connections_than_allowed(target: Target) -> None:
    """Beyond the bound on connections requests are 503 with Retry-After; health answers; later all is as before."""
    statuses: set[int] = set()
    while statuses != {200, 503}:  # on a slow machine the first ones may have left before the last ones come
        for answer in await flood(target):
            statuses.add(answer.status)
            assert answer.status in (200, 503), answer
            if answer.status == 503:
                assert answer.headers["retry-after"]
                assert answer.headers["connection"] == "close"
                assert "TALLY_HTTP_CONNECTIONS" in answer.error


async def a_client_that_does_not_read(target: Target) -> None:
    """A client that reads no answers, or only the first of many, is disconnected, and its buffers are freed."""
    events = [EVENT | {"feature_id": f"slow-{number}"} for number in range(1_000)]
    batch = json.dumps({"interactions": events}).encode()
    post = head("POST", f"{PATH}/batch", BEARER | {"Content-Length": str(len(batch))}) + batch
    async with target.wire() as wire:
        sending = asyncio.create_task(wire.send(post * 200))
        wire.stop_reading()
        await wire.until_cut()
        sending.cancel()


CASES: list[Case] = [
    endless_heads,
    a_slow_head,
    silent_connections,
    missing_bodies,
    more_connections_than_allowed,
    a_client_that_does_not_read,
]
