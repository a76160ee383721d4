"""Claims in Redis follow the rule, live and after any redelivery, and only for the holder of the lease."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.claims.client import CHUNK_OWNERS, Claims, Fenced
from consumers.claims.owners import LOOKUP_ONLY, STORED
from runtime.errors import Fatal, Unavailable
from runtime.redis import Redis, connect_redis
from runtime.settings import Settings
from schemas.identity import derive_foreign_id
from tests.claims_lab import (
    KEYS,
    W,
    ask,
    ask_with_flags,
    claims_of,
    fresh,
    keys_of,
    logs,
    owners_in,
    retaken,
    some_claims,
    span_of,
    taken,
)
from tests.reference import LoggedEvent, owners_by_the_rule


@given(logs(), st.integers(1, 9), st.lists(st.booleans(), min_size=3, max_size=3))
async def test_claims_follow_the_rule_for_repeated_batches(
    narrow: Settings, redis: Redis, log: list[LoggedEvent], size: int, again: list[bool]
) -> None:
    """Batches are claimed as in the pipeline: split anywhere, and possibly repeated, possibly by another worker."""
    claims = fresh(redis, narrow)
    expected = list(owners_by_the_rule(log, W).values())
    lease = await taken(claims)
    for at in range(0, len(log), size):
        batch = log[at : at + size]
        for other_worker in again:
            assert await ask(claims, lease, batch) == expected[at : at + size]
            if other_worker:
                lease = await retaken(claims, needed=batch[0].offset - 1, append_ms=batch[0].append_ms)
                assert lease.whole


async def test_a_fenced_worker_changes_nothing(narrow: Settings, redis: Redis) -> None:
    log = [LoggedEvent(0, 1, 1000, 1000, ("n", derive_foreign_id("t", 0, 1, 1000)), KEYS[0])]
    claims = Claims(redis, narrow)
    stale = await taken(claims)
    lease = await taken(claims)
    await ask(claims, lease, log)
    before = {key: await redis.get(key) async for key in redis.scan_iter(f"{narrow.key_prefix}*")}
    later = [log[0]._replace(offset=2, append_ms=9_000, event_ms=9_000)]
    for forbidden in (
        lambda: ask(claims, stale, later),
        lambda: claims.restore(stale, claims_of(later)),
        lambda: claims.finish(stale, last_offset=7, append_ms=0, reach_ms=-10 * W),
        lambda: claims.release(stale, claims_of(log)[:1]),
    ):
        with pytest.raises(Fenced):
            await forbidden()
    assert before == {key: await redis.get(key) async for key in redis.scan_iter(f"{narrow.key_prefix}*")}


async def test_a_released_claim_owns_nothing(narrow: Settings, redis: Redis) -> None:
    claims = Claims(redis, narrow)
    lease, log = await some_claims(claims)
    await claims.release(lease, claims_of(log)[:1])
    assert await ask(claims, lease, log[6:]) == [None, log[1].identity[1], log[2].identity[1]]


async def test_a_stored_event_owns_its_key_beside_other_owners(narrow: Settings, redis: Redis) -> None:
    claims = Claims(redis, narrow)
    lease = await taken(claims)
    log = [LoggedEvent(0, at, 1_000, 1_000, ("n", derive_foreign_id("t", 0, at, at)), KEYS[0]) for at in range(2)]
    assert await ask_with_flags(claims, lease, span_of(log), claims_of(log), {1: STORED}) == [None, None]
    assert await owners_in(redis, narrow) == [KEYS[0]] * 2


async def test_an_event_that_only_asks_owns_nothing(narrow: Settings, redis: Redis) -> None:
    claims = Claims(redis, narrow)
    lease = await taken(claims)
    log = [LoggedEvent(0, at, 1000, 1000, ("n", derive_foreign_id("t", 0, at, at)), KEYS[0]) for at in range(2)]
    assert await ask_with_flags(claims, lease, span_of(log), claims_of(log), {0: LOOKUP_ONLY}) == [None, None]


async def test_an_event_claims_its_key_once_in_repeated_requests(narrow: Settings, redis: Redis) -> None:
    claims = Claims(redis, narrow)
    lease = await taken(claims)
    for _ in range(3):
        await ask(claims, lease, [LoggedEvent(0, 1, 1000, 1000, ("n", derive_foreign_id("t", 0, 1, 1000)), KEYS[0])])
    assert await owners_in(redis, narrow) == [KEYS[0]]


async def test_the_state_of_a_long_running_worker_is_bounded(narrow: Settings, redis: Redis) -> None:
    claims = Claims(redis, narrow)
    lease = await taken(claims)
    for number in range(200):
        at_ms = 1_000_000 + number * W
        each = LoggedEvent(0, number, at_ms, at_ms, ("n", derive_foreign_id("t", 0, number, at_ms)), KEYS[0])
        assert await ask(claims, lease, [each]) == [None]
    assert len(lease.chunks) <= 4
    (head,) = [value for key, value in (await keys_of(redis, narrow)).items() if b"}:" not in key]
    assert len(head) < 1_000
    again = await retaken(claims, needed=199, append_ms=each.append_ms)
    assert again.whole
    assert len(again.chunks) <= 16, "what cannot matter any more is not loaded"


async def test_a_key_with_many_owners_is_found_among_them(narrow: Settings, redis: Redis) -> None:
    """An import under one execution: the same key at ever other event times, all appended at once."""
    claims = Claims(redis, narrow)
    lease = await taken(claims)
    log = [
        LoggedEvent(0, at, 90_000_000, 1_000 + at * W, ("n", derive_foreign_id("t", 0, at, at)), KEYS[0])
        for at in range(3 * CHUNK_OWNERS)
    ]
    assert not any(await ask(claims, lease, log[:-1]))
    again = [each._replace(offset=each.offset + 100_000) for each in log[::1_000]]
    assert await ask(claims, lease, again) == [each.identity[1] for each in again]


async def test_partitions_have_separate_claims(narrow: Settings, redis: Redis) -> None:
    claims = Claims(redis, narrow)
    one = LoggedEvent(0, 1, 1000, 1000, ("n", derive_foreign_id("t", 0, 1, 1000)), KEYS[0])
    other = one._replace(offset=2, identity=("n", derive_foreign_id("t", 1, 2, 1000)))
    zero, first = await taken(claims, 0), await taken(claims, 1)
    assert await ask(claims, zero, [one]) == [None]
    assert await ask(claims, first, [other]) == [None]
    assert await ask(claims, zero, [other]) == [one.identity[1]]


async def test_claims_share_their_partitions_hash_tag_and_expire(narrow: Settings, redis: Redis) -> None:
    claims = Claims(redis, narrow)
    lease = await taken(claims, 3)
    await ask(claims, lease, [LoggedEvent(3, 1, 1000, 1000, ("n", derive_foreign_id("t", 3, 1, 1000)), KEYS[1])])
    head, key = sorted(await keys_of(redis, narrow))
    assert head == f"{narrow.key_prefix}:{{{narrow.topic}:3}}".encode()
    assert key == head + b":" + lease.space + bytes(8)
    assert 0 < await redis.pttl(key) <= narrow.claim_ttl_ms


async def test_a_redis_that_evicts_is_refused(narrow: Settings, redis: Redis) -> None:
    await redis.config_set("maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(Fatal, match="maxmemory-policy noeviction"):
            async with connect_redis(narrow):
                pass
    finally:
        await redis.config_set("maxmemory-policy", "noeviction")


async def test_an_unreachable_redis_is_named() -> None:
    with pytest.raises(Unavailable, match="TALLY_REDIS"):
        async with connect_redis(Settings(redis="redis://127.0.0.1:1/0")):
            pass
