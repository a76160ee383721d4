"""Bodies and queries that are expensive to read, very repetitive, or contradictory."""

import asyncio
import base64
import gzip
import json
import zlib

from runtime.clickhouse import connect
from schemas.identity import mint_id
from tests.hostile.http_target import Case, Target
from tests.hostile.wire import Answer, head
from tests.http_lab import BEARER, EVENT, PATH

KIB, MIB = 1024, 1024 * 1024
PLAIN = b'"feature_id":"f","interaction_type":["view"],"position":0'
MOST_ANSWER_BYTES = 64 * KIB
HTTP_EVENT_BYTES = 256 * KIB


def event(more: bytes = b"") -> bytes:
    """An event with further members."""
    return b"{%b%b}" % (PLAIN, more)


def batch(*events: bytes) -> bytes:
    """A batch."""
    return b'{"interactions":[%b]}' % b",".join(events)


def members(size: int) -> bytes:
    """Members that no event has, each of another name, of this size in bytes."""
    return b"".join(b',"%x":1' % number for number in range(size // 10))


def repeated(value: bytes, size: int) -> bytes:
    """A value repeated up to this size in bytes, separated by commas."""
    return b",".join([value] * (size // (len(value) + 1)))


def hostile_events(size: int) -> dict[str, bytes]:
    """Invalid events of about this size in bytes that are slow to read, by their flaw."""
    return {
        "unknown keys": event(members(size)),
        "one unknown key": event(b',"%b":1' % (b"k" * size)),
        "a key many times": event(b',"a":1' * (size // 6)),
        "types": b'{"feature_id":"f","position":0,"interaction_type":[%b]}' % repeated(b'"view"', size),
        "unknown types": b'{"feature_id":"f","position":0,"interaction_type":[%b]}' % repeated(b'"x"', size),
        "numbers": event(b',"metadata":{"a":[%b]}' % repeated(b"1", size)),
        "doubles": event(b',"metadata":{"a":[%b]}' % repeated(b"1e1", size)),
        "lists": event(b',"metadata":{"a":[%b]}' % repeated(b"[]", size)),
        "objects": event(b',"metadata":{"a":[%b]}' % repeated(b"{}", size)),
        "texts": event(b',"metadata":{"a":[%b]}' % repeated(b'""', size)),
        "escapes": event(b',"metadata":{"a":[%b]}' % repeated(b'"\\u00e9"', size)),
        "halves of pairs": event(b',"metadata":{"a":[%b]}' % repeated(b'"\\ud800"', size)),
        "long integers": event(b',"metadata":{"a":[%b]}' % repeated(b"9" * 4_299, size)),
        "one integer": event(b',"document_score":%b' % (b"9" * size)),
        "a text": b'{"feature_id":"%b","interaction_type":["view"],"position":0}' % (b"f" * size),
        "a time": event(b',"occurred_at":"2026-01-01T00:00:00.%bZ"' % (b"1" * size)),
        "open brackets": b"[" * size,
        "nested": event(b',"metadata":%b1%b' % (b'{"a":' * (size // 6), b"}" * (size // 6))),
        "brackets": b"[]" * (size // 2),
        "quotes": b'"' * size,
        "backslashes": b'"' + b"\\" * size,
        "no UTF-8": b'{"feature_id":"%b"}' % (b"\xff" * size),
        "NaN": event(b',"document_score":NaN'),
        "NUL": b"\0" * size,
    }


def refused(answer: Answer, *statuses: int) -> None:
    """Assert that a request was refused with one of these, in few words."""
    assert answer.status in statuses, (answer.status, answer.body[:500])
    assert answer.json["success"] is False
    assert len(answer.body) <= MOST_ANSWER_BYTES, f"{len(answer.body):,} bytes of error"
    assert len(answer.json["error"]["details"].get("validation_errors", ())) <= 20


async def events_alone(target: Target) -> None:
    """An event that is expensive to parse is refused, alone or from a page."""
    for size in (200 * KIB, 900 * KIB):
        for body in hostile_events(size).values():
            refused(await target.post("", body), 400, 422)


async def events_over_the_body_limit(target: Target) -> None:
    """A body beyond its limit is refused, with any content."""
    refused(await target.post("", event(members(9 * MIB))), 413)
    refused(await target.post("/batch", batch(event(members(11 * MIB)))), 413)
    refused(await target.post("/list", b" " * 300 * KIB), 413)
    refused(await target.post("/beacon-token", b" " * 300 * KIB), 413)


async def one_event_with_all_the_keys_of_a_batch(target: Target) -> None:
    """An event of 9.5 MB of unknown keys fails by itself, and the event beside it is accepted."""
    answer = await target.post("/batch", batch(event(members(9_500_000)), event()))
    assert (answer.json["created"], answer.json["failed"]) == (1, 1)
    assert "TALLY_HTTP_EVENT_BYTES" in answer.json["errors"][0]


async def a_batch_of_events_with_unknown_keys(target: Target) -> None:
    """A thousand events of 7 kB of unknown keys each fail by themselves, in a short answer."""
    answer = await target.post("/batch", batch(*[event(members(7_000))] * 1_000))
    assert (answer.status, answer.json["failed"]) == (200, 1_000)
    assert len(answer.body) < 2 * MIB


async def batches_of_hostile_events(target: Target) -> None:
    """Each hostile event of a batch fails separately; invalid JSON fails the batch."""
    for name, body in hostile_events(250 * KIB).items():
        answer = await target.post("/batch", batch(event(), *[body] * 8, event()))
        if answer.status == 200:
            assert (answer.json["created"], answer.json["failed"]) == (2, 8), name
        else:
            refused(answer, 400, 422)


async def batches_that_arrive_together(target: Target) -> None:
    """Many hostile bodies at once hold the event loop for one piece of work at a time."""
    bodies = list(hostile_events(250 * KIB).values())
    answers = await asyncio.gather(
        *(target.post("/batch", batch(*[body] * 4)) for body in bodies),
        *(target.post("", body) for body in bodies),
        *(target.post("/list", body) for body in bodies),
    )
    assert {answer.status for answer in answers} <= {200, 400, 413, 422, 503}


async def batches_with_too_many_items(target: Target) -> None:
    """Items are counted before they are made, in lists, objects, texts and nests."""
    for items in (repeated(b"1", 9 * MIB), repeated(b"{}", 9 * MIB), repeated(b'"[{"', 9 * MIB), b"1," * 1_000 + b"1"):
        refused(await target.post("/batch", b'{"interactions":[%b]}' % items), 422)
    refused(await target.post("/batch", b'{"interactions":[%b' % (b"[" * 9 * MIB)), 422)
    refused(await target.post("/batch", b'{"interactions":[%b' % (b'{"a":' * 1_000_000)), 422)


async def batches_with_two_lists(target: Target) -> None:
    """A batch that names its list twice is refused as a whole: of neither list is anything dropped in silence."""
    for body in (
        b'{"interactions":[%b],"interactions":[%b]}' % (event(), event()),
        b"{%b}" % b",".join([b'"interactions":[{}]'] * 400_000),
    ):
        refused(await target.post("/batch", body), 422)
    answer = await target.post("/batch", batch(event(b',"metadata":{"interactions":[1,2],"a":{"interactions":[]}}')))
    assert answer.json["created"] == 1


async def batches_of_unknown_members(target: Target) -> None:
    """A batch with members that it does not have is refused in few words, however long they are."""
    refused(await target.post("/batch", b'{"%b":1}' % (b"k" * 9 * MIB)), 422)
    refused(await target.post("/batch", b'{"interactions":[]%b}' % members(9 * MIB)), 422)


async def oversized_filters(target: Target) -> None:
    """A filter of very many conditions, groups, values or keys is refused before it becomes SQL."""
    size = 200 * KIB
    for filters in (
        b'{"AND":[%b]}' % repeated(b"{}", size),
        b'{"AND":[%b]}' % repeated(b'{"AND":[]}', size),
        b'{"OR":[%b]}' % repeated(b'{"position":1}', size),
        b'{"NOT":[%b]}' % repeated(b'{"field":"position","value":1}', size),
        b'{"user_id":{"in":[%b]}}' % repeated(b'"x"', size),
        b'{"AND":[%b]}' % repeated(b'{"position":{"in":[%b]}}' % repeated(b"1", 2_000), size),
        b'{"position":{%b}}' % members(size)[1:],
        b"{%b}" % members(size)[1:],
        b'{"%b":1}' % (b"k" * size),
        b'{"user_id":"%b"}' % (b"u" * size),
        b'{"user_id":%b}' % (b"9" * size),
        b'{"position":%b}' % (b"9" * 4_000),
        b'{"user_id":{"regex":"%b"}}' % (b"(" * size),
        b'{"user_id":{"words":"%b"}}' % (b"a " * (size // 2)),
        b'{"AND":[%b' % (b"[" * size),
        b'{"AND":[%b' % (b'{"AND":[' * (size // 8)),
    ):
        refused(await target.post("/list", b'{"filters":%b}' % filters), 400, 422)


async def lists_with_unknown_members(target: Target) -> None:
    """A list call with very many members, at any depth, is refused in few words."""
    size = 200 * KIB
    for body in (
        b"{%b}" % members(size)[1:],
        b'{"sort":{%b}}' % members(size)[1:],
        b'{"sort":{"field":"%b"}}' % (b"k" * size),
        b'{"search":"%b"}' % (b"k" * size),
        b'{"user_id":[%b]}' % repeated(b"1", size),
        b"[%b]" % repeated(b"1", size),
        b'"%b"' % (b"k" * size),
        *(b"0", b"false", b"[]", b'""'),
    ):
        refused(await target.post("/list", body), 400, 422)
        refused(await target.post("/beacon-token", body), 400, 422)


async def forged_cursors(target: Target) -> None:
    """A cursor with a number out of range, or without one, is refused."""
    place = mint_id()
    for value in ("9" * 400, "9" * 4_000, "NaN", "Infinity", "-Infinity", "1e999", "[]", "true", '"\\u0000"', "-1"):
        text = f'["position",false,{value},"{place}"]'
        cursor = base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")[:4_096]
        answer = await target.post(f"/list?cursor={cursor}", b'{"sort":{"field":"position","direction":"asc"}}')
        assert answer.status == (200 if value == "-1" else 422), (value[:20], answer)
    for time in ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "1" * 3_000):
        cursor = base64.urlsafe_b64encode(f'["timestamp",true,"{time}","{place}"]'.encode()).decode().rstrip("=")
        answer = await target.post(
            f"/list?cursor={cursor[:4_096]}", b'{"sort":{"field":"timestamp","direction":"desc"}}'
        )
        assert answer.status in (200, 422), (time[:30], answer)


async def oversized_queries(target: Target) -> None:
    """A query of very many or very long parameters is refused or ignored in few words."""
    nothing = b'{"user_id":"nobody"}'
    for query in ("&" * 20_000, "a=1&" * 5_000, "limit=1&" * 2_000, "limit=" + "9" * 20_000, "page=" + "9" * 4_000):
        answer = await target.post(f"/list?{query}", nothing)
        assert answer.status in (200, 414, 422), answer
        assert len(answer.body) <= MOST_ANSWER_BYTES
    for query in ("since=" + "1" * 10_000, "user_id=" + "%00" * 100, "cursor=%ff", "limit=%F0%9F%92%A9", "reason=%"):
        answer = await target.call("GET", f"/v1/outcomes?{query}")
        assert answer.status in (200, 422), answer


async def pages_of_large_records(target: Target) -> None:
    """A page of large records is refused by its size; the default page of the largest records there are is served."""
    async with connect(target.settings) as database:
        await database.command(
            "INSERT INTO interactions (namespace, interaction_id, timestamp, metadata, query_snapshot) "
            "SELECT 'shop', concat('int_', leftPad(toString(number), 32, '0')), now(), large, large "
            f"FROM (SELECT number, concat('{{\"a\":\"', repeat('x', {64 * KIB - 8}), '\"}}') AS large "
            "FROM numbers(200))"
        )
    refused(await target.post("/list?limit=200", b"{}", X_Namespace="shop"), 422)
    answer = await target.post("/list", b"{}", X_Namespace="shop")
    assert (answer.status, len(answer.json["results"])) == (200, 100)
    request = head("POST", f"{PATH}/list", BEARER | {"X-Namespace": "shop", "Content-Length": "2"}) + b"{}"

    async def never_read() -> None:
        async with target.wire() as wire:
            wire.stop_reading()
            await wire.send(request)
            await wire.until_cut()

    await asyncio.gather(*(never_read() for _ in range(3)))


async def compressed_bombs(target: Target) -> None:
    """A body that is a thousand times as large as it came is refused at its limit; a broken one is refused at once."""
    for encoding, body in (
        ("gzip", gzip.compress(b" " * 64 * MIB, 9)),
        ("deflate", zlib.compress(b"[" * 64 * MIB, 9)),
        ("gzip", gzip.compress(gzip.compress(b" " * 64 * MIB, 9), 9)),
        ("gzip", gzip.compress(event(members(900 * KIB)))[:-9]),
        ("gzip", gzip.compress(event(members(900 * KIB)))),
    ):
        for path in ("", "/batch", "/list"):
            refused(await target.post(path, body, Content_Encoding=encoding), 400, 413, 422)
    refused(await target.post("", b"{}", Content_Encoding="br" * 5_000), 415)


async def deletes_with_bodies(target: Target) -> None:
    """A DELETE or GET answers by its path and ignores its body."""
    for method in ("DELETE", "GET"):
        for path, status in ((f"/v1/retrievers/interactions/{'x' * 10_000}", 404), ("/v1/outcomes", 200)):
            if method == "DELETE" and status == 200:
                continue
            answer = await target.call(method, path, b"[" * 500_000)
            assert answer.status == status, answer
            assert len(answer.body) <= MOST_ANSWER_BYTES


async def pages_with_hostile_bodies(target: Target) -> None:
    """Events of a page are validated like any other, and refused in few words when none is valid."""
    token = (await target.post("/beacon-token", b'{"origin":"https://a.example"}')).json["token"]
    for body in (
        *hostile_events(250 * KIB).values(),
        b"[%b]" % repeated(b"{}", 5_000),
        b"[%b]" % repeated(b"1", 900 * KIB),
    ):
        refused(await target.post(f"/beacon?token={token}", body, Origin="https://a.example"), 400, 422)
    for wrong in ("tb_" + "A" * 2_000, token + "A" * 200, token[:-1], "tb_.", "%00"):
        refused(await target.post(f"/beacon?token={wrong}", b"{}", Origin="https://a.example"), 401)


async def valid_requests_among_hostile_ones(target: Target) -> None:
    """The largest valid events are accepted: two whole objects, escapes in every text, blanks around everything."""
    half = b'{"a":"%b"}' % (b"x" * (64 * KIB - 8))
    escaped = b"\\u0041" * 512
    full = b',"metadata":%b,"query_snapshot":%b' % (half, half)
    names = ("user_id", "session_id", "execution_id", "retriever_id")
    texts = b"".join(b',"%b":"%b"' % (name.encode(), escaped) for name in names)
    largest = event(full + texts + b',"feature_uri":"%b"' % (b"\\u0041" * 2_048))
    for body in (
        largest,
        b" " * 50_000 + event() + b"\n" * 50_000,
        event(b',"metadata":{"a":[%b]}' % repeated(b"1", 64_000)),
    ):
        assert len(body) <= HTTP_EVENT_BYTES
        assert (await target.post("", body)).status == 200
        answer = await target.post("/batch", batch(*[body] * 20))
        assert answer.json["created"] == 20, answer.body[:500]
    many = [json.dumps(EVENT | {"feature_id": f"doc-{number}"}).encode() for number in range(1_000)]
    assert (await target.post("/batch", batch(*many))).json["created"] == 1_000


CASES: list[Case] = [
    events_alone,
    events_over_the_body_limit,
    one_event_with_all_the_keys_of_a_batch,
    a_batch_of_events_with_unknown_keys,
    batches_of_hostile_events,
    batches_that_arrive_together,
    batches_with_too_many_items,
    batches_with_two_lists,
    batches_of_unknown_members,
    oversized_filters,
    lists_with_unknown_members,
    forged_cursors,
    oversized_queries,
    pages_of_large_records,
    compressed_bombs,
    deletes_with_bodies,
    pages_with_hostile_bodies,
    valid_requests_among_hostile_ones,
]
