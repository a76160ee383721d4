"""Bytes that are not a request, more than one, or a different one than they seem."""

from tests.hostile.http_target import BODY, CREATE, HEALTH, Case, Target
from tests.hostile.wire import chunk, head
from tests.http_lab import BEARER, PATH

MIB = 1024 * 1024
CHUNKED = head("POST", PATH, BEARER | {"Transfer-Encoding": "chunked"})


async def requests_sent_ahead(target: Target) -> None:
    """Requests that are sent ahead are answered in their order; after too many the connection ends with a 503."""
    async with target.wire() as wire:
        await wire.send(b"".join(head("GET", f"/v1/health?{n}", {"X-Request-Id": f"r{n}"}) for n in range(50)))
        for number in range(50):
            assert (await wire.answer()).headers["x-request-id"] == f"r{number}"
    async with target.wire() as wire:
        await wire.send(b"GET /v1/health HTTP/1.1\r\n\r\n" * 50_000)
        statuses = []
        while answer := await wire.answer_or_close():
            statuses.append(answer.status)
        assert set(statuses[:-1]) == {200}
        assert statuses[-1] == 503
        assert len(statuses) <= 103
    async with target.wire() as wire:
        await wire.send(HEALTH * 3 + b"NONSENSE\r\n\r\n" + HEALTH)
        assert [(await wire.answer()).status for _ in range(4)] == [200, 200, 200, 400]
        assert await wire.is_closed()


async def bodies_in_small_chunks(target: Target) -> None:
    """A body may come in small chunks; one that is mostly framing, extensions or trailers is refused."""
    async with target.wire() as wire:
        await wire.send(CHUNKED + b"".join(chunk(BODY[at : at + 1]) for at in range(len(BODY))) + b"0\r\n\r\n")
        assert (await wire.answer()).status == 200
        await wire.send(HEALTH)
        assert (await wire.answer()).status == 200, "the connection continues"
    for body in (
        chunk(b"x") * 200_000,
        chunk(b"x", b";a=" + b"b" * 3 * MIB),
        chunk(b"x", b";a") * 100_000,
        chunk(BODY) + b"0\r\nX-Trailer: " + b"x" * 3 * MIB,
        chunk(BODY) + b"0\r\n" + b"X-Trailer: x\r\n" * 100_000,
    ):
        async with target.wire() as wire:
            await wire.send(CHUNKED)
            await wire.send(body)
            answer = await wire.answer()
            assert answer.status == 400, answer


async def trailers_are_not_headers(target: Target) -> None:
    """Trailers after a chunked body neither name a namespace nor provide a key."""
    for trailer in (b"X-Namespace: elsewhere", b"Authorization: Bearer wrong", b"Idempotency-Key: " + b"x" * 600):
        async with target.wire() as wire:
            await wire.send(CHUNKED + chunk(BODY) + b"0\r\n" + trailer + b"\r\n\r\n")
            assert (await wire.answer()).status == 200
            without_key = head("POST", PATH, {"Transfer-Encoding": "chunked"})
            await wire.send(without_key + chunk(BODY) + b"0\r\nAuthorization: " + BEARER["Authorization"].encode())
            await wire.send(b"\r\n\r\n")
            assert (await wire.answer()).status == 401


async def wrong_content_lengths(target: Target) -> None:
    """A length that is not a number, repeated or combined with chunks is refused; half a body stores nothing."""
    for headers in (
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: -1",
        "Content-Length: +5",
        "Content-Length: 0x5",
        "Content-Length: 5, 5",
        "Content-Length: " + "9" * 30,
        "Content-Length: 1_0",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding:\x0bchunked",
        "Transfer-Encoding : chunked",
    ):
        raw = f"POST {PATH} HTTP/1.1\r\nHost: t\r\nAuthorization: {BEARER['Authorization']}\r\n{headers}\r\n\r\n"
        await target.refuses(raw.encode() + b"0\r\n\r\n" + CREATE, 400)
    for framing in (
        b"-1\r\n",
        b"0x5\r\nhello\r\n",
        b"5\nhello\n",
        b"FFFFFFFFFFFFFFFFF\r\n",
        b"\r\n",
        b"5;\x00\r\nhello\r\n",
    ):
        async with target.wire() as wire:
            await wire.send(CHUNKED + framing + b"0\r\n\r\n")
            answer = await wire.answer()
            assert answer.status == 400, (framing, answer)
    async with target.wire() as wire:
        await wire.send(head("POST", PATH, BEARER | {"Content-Length": "500"}) + BODY)
        wire.finish_sending()
        assert await wire.answer_or_close() is None, "half a body is not an event"
    async with target.wire() as wire:
        await wire.send(head("POST", PATH, BEARER | {"Content-Length": str(len(BODY) - 1)}) + BODY)
        assert (await wire.answer()).status == 400
        last = await wire.answer_or_close()
        assert last is None or last.status in (400, 408), "its last byte is not a request"


async def bodies_beyond_their_limit(target: Target) -> None:
    """A body beyond its limit is 413 at once; the connection continues when the rest comes, within a bound."""
    large = 3 * MIB
    async with target.wire() as wire:
        await wire.send(head("POST", PATH, BEARER | {"Content-Length": str(large)}))
        assert (await wire.answer()).status == 413
        await wire.send(b"x" * large + HEALTH)
        assert (await wire.answer()).status == 200
    async with target.wire() as wire:
        await wire.send(head("POST", PATH, BEARER | {"Content-Length": str(10**15)}))
        assert (await wire.answer()).status == 413
        await wire.send(b"x" * 40 * MIB)
        assert await wire.is_closed(), "a petabyte is not read"


async def requests_with_expect_100_continue(target: Target) -> None:
    """`Expect: 100-continue` is answered with 100 when the body is wanted, and with the error when it is not."""
    expecting = {"Expect": "100-continue", "Content-Length": str(len(BODY))}
    async with target.wire() as wire:
        await wire.send(head("POST", PATH, BEARER | expecting))
        assert (await wire.answer()).status == 100
        await wire.send(BODY)
        assert (await wire.answer()).status == 200
    async with target.wire() as wire:
        await wire.send(head("POST", PATH, expecting))
        assert (await wire.answer()).status == 401


async def upgrade_requests(target: Target) -> None:
    """A request to upgrade is answered without an upgrade, and so are later requests."""
    for protocol in ("websocket", "h2c", "TLS/1.0", "x" * 1_000):
        asking = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": protocol, "Sec-WebSocket-Key": "x"}
        async with target.wire() as wire:
            length = {"Content-Length": str(len(BODY))}
            await wire.send(head("GET", "/v1/health", asking) + HEALTH + head("POST", PATH, BEARER | asking | length))
            await wire.send(BODY + HEALTH)
            assert [(await wire.answer()).status for _ in range(4)] == [200] * 4
    async with target.wire() as wire:
        await wire.send(head("GET", "/v1/health", {"Connection": "Upgrade", "Upgrade": "x"}) * 3_000)
        while answer := await wire.answer_or_close():
            assert answer.status in (200, 503)


async def bytes_that_are_not_http(target: Target) -> None:
    """Requests other than HTTP/1.0 and 1.1 get 400 and a closed connection."""
    for raw in (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 500,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /v1/health HTTP/3.0\r\n\r\n",
        b"GET /v1/health HTTP/1.10\r\n\r\n",
        b"GET /v1/health\r\n\r\n",
        b"get /v1/health HTTP/1.1\r\n\r\n",
        b"BREW /v1/health HTTP/1.1\r\n\r\n",
        b"\0" * 1_000,
        b"GET /v1/health HTTP/1.1\nHost: t\n\n",
        b"GET /v1/health HTTP/1.1\r\nHost t\r\n\r\n",
        b"GET /v1/health HTTP/1.1\r\n: x\r\n\r\n",
        b"GET /v1/health HTTP/1.1\r\nX-A: a\x00b\r\n\r\n",
        b"GET /v1/health HTTP/1.1\r\nX-A: a\rb\r\n\r\n",
        b"GET /v1/health HTTP/1.1\r\nX-A\x00: b\r\n\r\n",
        b"GET /v1/\x00health HTTP/1.1\r\n\r\n",
        b"GET /v1/\x7fhealth HTTP/1.1\r\n\r\n",
        b"GET /v1/health HTTP/1.1 \r\n\r\n",
        b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com\r\n\r\n",
        b"GET http:// HTTP/1.1\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: t\r\n\r\n",
    ):
        async with target.wire() as wire:
            await wire.send(raw)
            answer = await wire.answer()
            assert answer.status in (400, 404, 405), (raw, answer)
            assert answer.json["status"] == answer.status


async def unusual_valid_requests(target: Target) -> None:
    """HTTP/1.0, whole URLs as targets and unknown paths are answered by the HTTP rules; an unknown method is 405."""
    async with target.wire() as wire:
        await wire.send(b"GET /v1/health HTTP/1.0\r\n\r\n")
        assert (await wire.answer()).status == 200
        assert await wire.is_closed()
    async with target.wire() as wire:
        await wire.send(b"GET http://elsewhere.example:80/v1/health?x HTTP/1.1\r\nHost: t\r\n\r\n")
        assert (await wire.answer()).status == 200
    for method in ("TRACE", "PUT", "PATCH", "PROPFIND", "LINK"):
        answer = await target.call(method, PATH)
        assert answer.status == 405, answer
        assert "POST" in answer.headers["allow"]
    for path in ("/%", "/%zz", "/%00", "/%ff", "/%2e%2e/%2e%2e/etc/passwd", "//", "/v1/health/", "/" + "%41" * 5_000):
        assert (await target.call("GET", path)).status == 404


async def reflected_headers(target: Target) -> None:
    """Nothing that a client sends in a header, a query or a path begins another header of the answer."""
    injected = "x%0d%0aSet-Cookie: a=b"
    for name in (
        "X-Request-Id",
        "X-Namespace",
        "Idempotency-Key",
        "Prefer",
        "traceparent",
        "Origin",
        "X-Forwarded-For",
    ):
        for value in (
            injected,
            "x\x0bSet-Cookie: a",
            "\x85Set-Cookie: a",
            "ÿ" * 200,
            "wait=2\x0cSet-Cookie: a=b",
            "'" * 9,
        ):
            async with target.wire() as wire:
                headers = BEARER | {"Content-Length": str(len(BODY)), name: value}
                await wire.send(head("POST", f"{PATH}?{injected.replace(' ', '+')}", headers) + BODY)
                answer = await wire.answer()
                assert answer.status in (200, 400, 403, 422), answer
                assert "set-cookie" not in answer.headers
    for value in ("wait=" + "9" * 30_000, "," * 30_000, "wait=1" + " " * 30_000, "wait = " * 4_000):
        assert (await target.post("", BODY, Prefer=value)).status == 200
    for value in (
        "Bearer " + "x" * 30_000,
        "Bearer tk_" + "_" * 30_000,
        "Basic eDp5",
        "Bearer",
        "Bearer \xff",
        " " * 30_000,
    ):
        async with target.wire() as wire:
            await wire.send(head("GET", "/v1/outcomes", {"Authorization": value}))
            assert (await wire.answer()).status == 401


async def clients_that_disconnect(target: Target) -> None:
    """Clients that leave in the middle of a head, a body or an answer cause a line of log each, and no error."""
    parts = (b"", b"GET", HEALTH[:-2], CREATE[:-1], CREATE, CHUNKED, CHUNKED + b"5\r\nhel", CREATE * 3)
    for reset in (True, False):
        for part in parts * 10:
            async with target.wire() as wire:
                await wire.send(part)
                if reset:
                    wire.reset()
                else:
                    wire.finish_sending()
                    await wire.answer_or_close()


async def ipv4_and_ipv6_addresses(target: Target) -> None:
    """The API that listens on :: answers over IPv6 and over IPv4."""
    for host in ("::1", "127.0.0.1"):
        async with target.wire(host) as wire:
            await wire.send(CREATE)
            assert (await wire.answer()).status == 200


CASES: list[Case] = [
    requests_sent_ahead,
    bodies_in_small_chunks,
    trailers_are_not_headers,
    wrong_content_lengths,
    bodies_beyond_their_limit,
    requests_with_expect_100_continue,
    upgrade_requests,
    bytes_that_are_not_http,
    unusual_valid_requests,
    reflected_headers,
    clients_that_disconnect,
    ipv4_and_ipv6_addresses,
]
