"""Claims in Redis answer what the rule says, live, after any redelivery, and after any loss; or they say that they
cannot."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from runtime.claims import Claim, Claims, ClaimsLost, Fenced, Lease, Span
from runtime.errors import Fatal, Unavailable
from runtime.redis import Redis, connect_redis
from runtime.settings import Settings
from schemas.identity import derive_foreign_id
from tests.reference import Logged, owners_by_the_rule

W = 1_000
KEYS = [bytes([number]) * 16 for number in range(3)]


@st.composite
def logs(draw: st.DrawFn) -> list[Logged]:
    """Append times that never go back, event times anywhere around them, steps that hit the window's edges."""
    steps = st.sampled_from([0, 1, W - 1, W, W + 1, 2 * W - 1, 2 * W])
    append_ms, offset, log = 10_000_000, draw(st.integers(0, 3)), []
    for _ in range(draw(st.integers(1, 25))):
        append_ms += draw(steps)
        offset += draw(st.integers(1, 3))
        event_ms = append_ms + draw(st.sampled_from([0, 0, -1, W, -W, 1 - W, W - 1, -5 * W, 3 * W]))
        identity = "n", derive_foreign_id("log", 0, offset, append_ms)
        log.append(Logged(0, offset, append_ms, event_ms, identity, draw(st.sampled_from(KEYS))))
    return log


def claims_of(log: list[Logged]) -> list[Claim]:
    return [Claim(each.key or b"", each.offset, each.event_ms, each.append_ms, each.identity[1]) for each in log]


def span_of(log: list[Logged]) -> Span:
    return Span(log[0].offset, log[0].append_ms, log[-1].offset, log[-1].append_ms)


def examples_of(strategy: st.SearchStrategy[Any], count: int) -> list[Any]:
    """Examples to run one after another in this test's event loop."""
    found: list[Any] = []

    @given(strategy)
    @hypothesis_settings(max_examples=count)
    def collect(example: Any) -> None:
        found.append(example)

    collect()
    return found


@pytest.fixture
def narrow(settings: Settings) -> Settings:
    return settings.model_copy(update={"dedup_window_ms": W, "clock_skew_ms": 0})


@pytest.fixture
async def redis(narrow: Settings) -> AsyncIterator[Redis]:
    async with connect_redis(narrow) as connected:
        yield connected


async def taken(claims: Claims, partition: int = 0) -> Lease:
    """A lease on claims of a partition of which nothing has been read."""
    lease = await claims.take(partition, needed=-1, log_end=1_000_000)
    if not lease.whole:
        await claims.finish(lease, last_offset=-1, append_ms=0, reach_ms=-10 * W)
    return lease


def fresh(redis: Redis, narrow: Settings, number: int) -> Claims:
    return Claims(redis, narrow.model_copy(update={"key_prefix": f"{narrow.key_prefix}-{number}"}))


async def ask(claims: Claims, lease: Lease, log: list[Logged]) -> list[str | None]:
    owners = await claims.claim(lease, span_of(log), claims_of(log))
    return [owner.interaction_id if owner else None for owner in owners]


async def test_claims_follow_the_rule_however_often_a_batch_is_asked_again(narrow: Settings, redis: Redis) -> None:
    """As the pipeline asks: batch by batch, cut anywhere, each perhaps again, perhaps by another worker."""
    examples = examples_of(st.tuples(logs(), st.integers(1, 9), st.lists(st.booleans(), min_size=3, max_size=3)), 100)
    for number, (log, size, again) in enumerate(examples):
        claims = fresh(redis, narrow, number)
        expected = list(owners_by_the_rule(log, W).values())
        lease = await taken(claims)
        for at in range(0, len(log), size):
            batch = log[at : at + size]
            for other_worker in again:
                assert await ask(claims, lease, batch) == expected[at : at + size]
                if other_worker:
                    lease = await claims.take(0, needed=batch[0].offset - 1, log_end=1_000_000)
                    assert lease.whole


async def test_rebuilt_claims_answer_as_if_they_had_never_been_lost(narrow: Settings, redis: Redis) -> None:
    """At any place of the log, also between two batches of which the second was begun."""
    examples = examples_of(st.tuples(logs(), st.integers(0, 25), st.integers(0, 9)), 100)
    for number, (log, loss, begun) in enumerate(examples):
        claims = fresh(redis, narrow, number)
        verdicts = owners_by_the_rule(log, W)
        stored = [each for each in log if verdicts[0, each.offset] is None]
        before, after = log[:loss], log[loss:]
        if not after:
            continue
        lease = await taken(claims)
        if before:
            await ask(claims, lease, before)
        if after[:begun]:
            await ask(claims, lease, after[:begun])
        rows = [each for each in stored if each.append_ms >= after[0].append_ms - 2 * W and each.offset % 2 == 0]
        rows += [each for each in before if each in stored and each not in rows]
        lease = await claims.take(0, needed=after[0].offset - 1, log_end=1_000_000, anew=True)
        await claims.restore(lease, claims_of(rows))
        await claims.restore(lease, claims_of(rows))
        await claims.finish(
            lease, last_offset=after[0].offset - 1, append_ms=max(each.append_ms for each in log), reach_ms=0
        )
        assert await ask(claims, lease, after) == [verdicts[0, each.offset] for each in after]


async def test_who_lost_the_partition_changes_nothing(narrow: Settings, redis: Redis) -> None:
    log = [Logged(0, 1, 1000, 1000, ("n", derive_foreign_id("t", 0, 1, 1000)), KEYS[0])]
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
        lambda: claims.release(stale, claims_of(log)[0]),
    ):
        with pytest.raises(Fenced):
            await forbidden()
    assert before == {key: await redis.get(key) async for key in redis.scan_iter(f"{narrow.key_prefix}*")}


async def some_claims(claims: Claims) -> tuple[Lease, list[Logged]]:
    lease = await taken(claims)
    log = [
        Logged(0, at, 1_000 + at, 1_000 + at, ("n", derive_foreign_id("t", 0, at, at)), KEYS[at % 3]) for at in range(9)
    ]
    await ask(claims, lease, log[:6])
    return lease, log


async def keys_of(redis: Redis, settings: Settings) -> dict[bytes, bytes]:
    keys: list[Any] = [key async for key in redis.scan_iter(f"{settings.key_prefix}*")]
    values: list[Any] = [await redis.get(key) for key in keys]
    return dict(zip(keys, values, strict=True))


async def test_claims_that_vanished_are_noticed(narrow: Settings, redis: Redis) -> None:
    claims = Claims(redis, narrow)
    lease, log = await some_claims(claims)
    await redis.delete(*await keys_of(redis, narrow))
    with pytest.raises(ClaimsLost):
        await ask(claims, lease, log[6:])
    assert not (await claims.take(0, needed=5, log_end=10)).whole


async def test_a_half_empty_replica_is_noticed(narrow: Settings, redis: Redis) -> None:
    """After a failover the head and some claims are there, and the newest are not."""
    claims = Claims(redis, narrow)
    lease, log = await some_claims(claims)
    replica = await keys_of(redis, narrow)
    await ask(claims, lease, log[6:8])
    for key, value in replica.items():
        await redis.set(key, value)
    with pytest.raises(ClaimsLost, match="changed 2 times instead of 3"):
        await ask(claims, lease, log[8:])
    assert not (await claims.take(0, needed=7, log_end=10)).whole
    assert not (await claims.take(0, needed=0, log_end=10)).whole, "that one began to rebuild, and never finished"


async def test_what_is_lost_again_while_it_is_restored_is_noticed(narrow: Settings, redis: Redis) -> None:
    """A failover in the middle of a rebuild: the head is there, and the first of what was put back is not."""
    claims = Claims(redis, narrow)
    lease = await claims.take(0, needed=5, log_end=10)
    log = [
        Logged(0, at, 1_000 + at, 1_000 + at, ("n", derive_foreign_id("t", 0, at, at)), KEYS[at % 3]) for at in range(6)
    ]
    replica = await keys_of(redis, narrow)
    await claims.restore(lease, claims_of(log[:3]))
    await redis.delete(*await keys_of(redis, narrow))
    for key, value in replica.items():
        await redis.set(key, value)
    with pytest.raises(ClaimsLost, match="changed"):
        await claims.restore(lease, claims_of(log[3:]))
        await claims.finish(lease, last_offset=5, append_ms=2_000, reach_ms=-10 * W)
    with pytest.raises(ClaimsLost, match="changed"):
        await claims.finish(lease, last_offset=5, append_ms=2_000, reach_ms=-10 * W)


async def test_an_answer_that_was_lost_may_be_asked_for_again(narrow: Settings, redis: Redis) -> None:
    claims = Claims(redis, narrow)
    lease, log = await some_claims(claims)
    before = lease.count
    answer = await ask(claims, lease, log[6:])
    lease.count = before
    assert await ask(claims, lease, log[6:]) == answer


async def test_claims_of_a_topic_of_the_same_name_are_noticed(narrow: Settings, redis: Redis) -> None:
    claims = Claims(redis, narrow)
    lease, log = await some_claims(claims)
    assert not (await claims.take(0, needed=-1, log_end=5)).whole, "the log is shorter than what was claimed"
    lease = await taken(claims)
    await ask(claims, lease, log[:6])
    anew = [each._replace(append_ms=each.append_ms + 500) for each in log]
    with pytest.raises(ClaimsLost, match="another log"):
        await ask(claims, await taken(claims), anew)


async def test_claims_that_may_have_expired_are_noticed(narrow: Settings, redis: Redis) -> None:
    """The log moved on by less than 2W while the wall clock moved on by more than the claims' time to live."""
    short = narrow.model_copy(update={"dedup_window_ms": 1, "claim_slack_ms": 0})
    claims = Claims(redis, short)
    lease = await taken(claims)
    log = [
        Logged(0, at, 1_000 + at // 50, 1_000 + at // 50, ("n", derive_foreign_id("t", 0, at, at)), KEYS[0])
        for at in range(100)
    ]
    with pytest.raises(ClaimsLost, match="time to live"):
        for each in log * 10_000:
            await ask(claims, lease, [each])


async def test_claims_that_matter_no_more_may_expire(narrow: Settings, redis: Redis) -> None:
    """The log stood still for longer than anything lives, and what comes now is past everybody's reach."""
    short = narrow.model_copy(update={"dedup_window_ms": 1, "claim_slack_ms": 0})
    claims = Claims(redis, short)
    lease = await taken(claims)
    for at in range(100):
        moment = 1_000_000 + at * 1_000
        log = [Logged(0, at, moment, moment, ("n", derive_foreign_id("t", 0, at, at)), KEYS[0])]
        assert await ask(claims, lease, log) == [None]


async def test_other_settings_are_another_layout(narrow: Settings, redis: Redis) -> None:
    await some_claims(Claims(redis, narrow))
    wider = narrow.model_copy(update={"dedup_window_ms": 2 * W})
    assert not (await Claims(redis, wider).take(0, needed=5, log_end=10)).whole


async def test_a_released_claim_owns_nothing(narrow: Settings, redis: Redis) -> None:
    claims = Claims(redis, narrow)
    lease, log = await some_claims(claims)
    await claims.release(lease, claims_of(log)[0])
    assert await ask(claims, lease, log[6:]) == [None, log[1].identity[1], log[2].identity[1]]


async def test_a_release_that_redis_lost_is_noticed(narrow: Settings, redis: Redis) -> None:
    claims = Claims(redis, narrow)
    lease, log = await some_claims(claims)
    replica = await keys_of(redis, narrow)
    await claims.release(lease, claims_of(log)[0])
    for key, value in replica.items():
        await redis.set(key, value)
    with pytest.raises(ClaimsLost, match="changed"):
        await ask(claims, lease, log[6:])


async def test_who_comes_from_before_what_was_forgotten_is_told(narrow: Settings, redis: Redis) -> None:
    """A worker that slept while others moved on, and has the partition again, asks about records of before."""
    claims = Claims(redis, narrow)
    old = [Logged(0, at, 1_000, 1_000, ("n", derive_foreign_id("t", 0, at, at)), KEYS[0]) for at in range(2)]
    new = [Logged(0, 2, 90_000, 90_000, ("n", derive_foreign_id("t", 0, 2, 2)), KEYS[0])]
    await ask(claims, await taken(claims), old)
    await ask(claims, await claims.take(0, needed=1, log_end=10), new)
    lease = await claims.take(0, needed=0, log_end=10)
    assert lease.whole
    with pytest.raises(ClaimsLost, match="forgotten"):
        await ask(claims, lease, old[1:])


async def test_what_is_stored_owns_its_key_whatever_it_finds(narrow: Settings, redis: Redis) -> None:
    claims = Claims(redis, narrow)
    lease = await taken(claims)
    log = [Logged(0, at, 1_000, 1_000, ("n", derive_foreign_id("t", 0, at, at)), KEYS[0]) for at in range(2)]
    first, second = claims_of(log)
    assert await claims.claim(lease, span_of(log), [first, second._replace(is_stored=True)]) == [None, None]
    (value,) = [value for key, value in (await keys_of(redis, narrow)).items() if key.endswith(KEYS[0])]
    assert len(value) == 2 * 40


async def test_who_only_asks_owns_nothing(narrow: Settings, redis: Redis) -> None:
    claims = Claims(redis, narrow)
    lease = await taken(claims)
    log = [Logged(0, at, 1000, 1000, ("n", derive_foreign_id("t", 0, at, at)), KEYS[0]) for at in range(2)]
    asks, claim = claims_of(log)
    assert await claims.claim(lease, span_of(log), [asks._replace(asks_only=True), claim]) == [None, None]


async def test_an_event_asked_about_again_owns_its_key_once(narrow: Settings, redis: Redis) -> None:
    claims = Claims(redis, narrow)
    lease = await taken(claims)
    for _ in range(3):
        await ask(claims, lease, [Logged(0, 1, 1000, 1000, ("n", derive_foreign_id("t", 0, 1, 1000)), KEYS[0])])
    (value,) = [value for key, value in (await keys_of(redis, narrow)).items() if key.endswith(KEYS[0])]
    assert len(value) == 40


async def test_a_key_that_returns_for_ever_keeps_few_owners(narrow: Settings, redis: Redis) -> None:
    claims = Claims(redis, narrow)
    lease = await taken(claims)
    for number in range(200):
        at_ms = 1_000_000 + number * W
        each = Logged(0, number, at_ms, at_ms, ("n", derive_foreign_id("t", 0, number, at_ms)), KEYS[0])
        assert await ask(claims, lease, [each]) == [None]
    stored = await keys_of(redis, narrow)
    assert max(len(value) for key, value in stored.items() if key.endswith(KEYS[0])) <= 3 * 40
    assert len(stored) == 2
    assert max(map(len, stored.values())) < 400, "the head is bounded too"


async def test_partitions_do_not_know_each_other(narrow: Settings, redis: Redis) -> None:
    claims = Claims(redis, narrow)
    one = Logged(0, 1, 1000, 1000, ("n", derive_foreign_id("t", 0, 1, 1000)), KEYS[0])
    other = one._replace(offset=2, identity=("n", derive_foreign_id("t", 1, 2, 1000)))
    zero, first = await taken(claims, 0), await taken(claims, 1)
    assert await ask(claims, zero, [one]) == [None]
    assert await ask(claims, first, [other]) == [None]
    assert await ask(claims, zero, [other]) == [one.identity[1]]


async def test_claims_share_their_partitions_hash_tag_and_expire(narrow: Settings, redis: Redis) -> None:
    claims = Claims(redis, narrow)
    lease = await taken(claims, 3)
    await ask(claims, lease, [Logged(3, 1, 1000, 1000, ("n", derive_foreign_id("t", 3, 1, 1000)), KEYS[1])])
    head, key = sorted(await keys_of(redis, narrow))
    assert head == f"{narrow.key_prefix}:{{{narrow.topic}:3}}".encode()
    assert key == head + b":" + lease.space + KEYS[1]
    assert 0 < await redis.pttl(key) <= narrow.claim_ttl_ms


async def test_a_redis_that_evicts_is_refused(narrow: Settings, redis: Redis) -> None:
    await redis.config_set("maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(Fatal, match="maxmemory-policy noeviction"):
            async with connect_redis(narrow):
                pass
    finally:
        await redis.config_set("maxmemory-policy", "noeviction")


async def test_a_redis_that_is_not_there_is_named() -> None:
    with pytest.raises(Unavailable, match="TALLY_REDIS"):
        async with connect_redis(Settings(redis="redis://127.0.0.1:1/0")):
            pass
