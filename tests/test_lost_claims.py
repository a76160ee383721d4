"""Claims that are gone, or not whole, say so; and rebuilt they answer as if nothing had happened."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.claims.client import Claims, ClaimsLost
from runtime.redis import Redis
from runtime.settings import Settings
from schemas.identity import derive_foreign_id
from tests.claims_lab import KEYS, W, ask, claims_of, fresh, keys_of, logs, retaken, some_claims, taken
from tests.reference import LoggedEvent, owners_by_the_rule


@given(logs(), st.integers(0, 24), st.integers(0, 9))
async def test_rebuilt_claims_give_the_same_answers_as_the_lost_ones(
    narrow: Settings, redis: Redis, log: list[LoggedEvent], place: int, begun: int
) -> None:
    """At any place of the log, also between two batches of which the second was begun."""
    claims = fresh(redis, narrow)
    verdicts = owners_by_the_rule(log, W)
    stored = [each for each in log if verdicts[0, each.offset] is None]
    loss = place % len(log)
    before, after = log[:loss], log[loss:]
    lease = await taken(claims)
    if before:
        await ask(claims, lease, before)
    if after[:begun]:
        await ask(claims, lease, after[:begun])
    rows = [each for each in stored if each.append_ms >= after[0].append_ms - 2 * W and each.offset % 2 == 0]
    rows += [each for each in before if each in stored and each not in rows]
    lease = await claims.take(
        0, needed=after[0].offset - 1, log_end=1_000_000, append_ms=after[0].append_ms, again=True
    )
    await claims.restore(lease, claims_of(rows))
    await claims.finish(
        lease, last_offset=after[0].offset - 1, append_ms=max(each.append_ms for each in log), reach_ms=0
    )
    assert await ask(claims, lease, after) == [verdicts[0, each.offset] for each in after]


async def test_vanished_claims_are_detected(narrow: Settings, redis: Redis) -> None:
    claims = Claims(redis, narrow)
    lease, log = await some_claims(claims)
    await redis.delete(*await keys_of(redis, narrow))
    with pytest.raises(ClaimsLost):
        await ask(claims, lease, log[6:])
    assert not (await claims.take(0, needed=5, log_end=10, append_ms=1_000)).whole


async def test_a_half_empty_replica_is_detected(narrow: Settings, redis: Redis) -> None:
    """After a failover the head and some claims are there, and the newest are not."""
    claims = Claims(redis, narrow)
    lease, log = await some_claims(claims)
    replica = await keys_of(redis, narrow)
    await ask(claims, lease, log[6:8])
    for key, value in replica.items():
        await redis.set(key, value)
    with pytest.raises(ClaimsLost, match="changed 2 times instead of 3"):
        await ask(claims, lease, log[8:])
    assert not (await claims.take(0, needed=7, log_end=10, append_ms=1_000)).whole
    assert not (await claims.take(0, needed=0, log_end=10, append_ms=1_000)).whole, (
        "that one began to rebuild, and never finished"
    )


async def test_claims_lost_during_a_restore_are_detected(narrow: Settings, redis: Redis) -> None:
    """A failover during a rebuild: the head exists, and the first restored claims are missing."""
    claims = Claims(redis, narrow)
    lease = await claims.take(0, needed=5, log_end=10, append_ms=1_000)
    log = [
        LoggedEvent(0, at, 1_000 + at, 1_000 + at, ("n", derive_foreign_id("t", 0, at, at)), KEYS[at % 3])
        for at in range(6)
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


async def test_a_request_can_be_repeated_after_a_lost_answer(narrow: Settings, redis: Redis) -> None:
    claims = Claims(redis, narrow)
    lease, log = await some_claims(claims)
    before = lease.count
    answer = await ask(claims, lease, log[6:])
    lease.count = before
    assert await ask(claims, lease, log[6:]) == answer


async def test_claims_of_an_earlier_topic_of_the_same_name_are_detected(narrow: Settings, redis: Redis) -> None:
    claims = Claims(redis, narrow)
    lease, log = await some_claims(claims)
    assert not (await claims.take(0, needed=-1, log_end=5, append_ms=1_000)).whole, (
        "the log is shorter than what was claimed"
    )
    await ask(claims, await taken(claims), log[:6])
    again = [each._replace(append_ms=each.append_ms + 500) for each in log]
    lease = await retaken(claims, needed=-1, append_ms=log[0].append_ms)
    with pytest.raises(ClaimsLost, match="another log"):
        await ask(claims, lease, again)
    assert not (await retaken(claims, needed=-1, append_ms=again[0].append_ms)).whole


async def test_claims_that_may_have_expired_are_detected(narrow: Settings, redis: Redis) -> None:
    """The log moved on by less than 2W while the wall clock moved on by more than the claims' time to live."""
    short = narrow.model_copy(update={"dedup_window_ms": 1, "claim_slack_ms": 0})
    claims = Claims(redis, short)
    lease = await taken(claims)
    log = [
        LoggedEvent(0, at, 1_000 + at // 50, 1_000 + at // 50, ("n", derive_foreign_id("t", 0, at, at)), KEYS[0])
        for at in range(100)
    ]
    with pytest.raises(ClaimsLost, match=r"time to live|a chunk of them is gone"):
        for each in log * 10_000:
            await ask(claims, lease, [each])


async def test_claims_out_of_reach_may_expire(narrow: Settings, redis: Redis) -> None:
    """The log had no records for longer than claims live, and the next event is out of reach of all of them."""
    short = narrow.model_copy(update={"dedup_window_ms": 1, "claim_slack_ms": 0})
    claims = Claims(redis, short)
    lease = await taken(claims)
    for at in range(100):
        moment = 1_000_000 + at * 1_000
        log = [LoggedEvent(0, at, moment, moment, ("n", derive_foreign_id("t", 0, at, at)), KEYS[0])]
        assert await ask(claims, lease, log) == [None]


async def test_claims_of_another_window_are_not_used(narrow: Settings, redis: Redis) -> None:
    await some_claims(Claims(redis, narrow))
    wider = narrow.model_copy(update={"dedup_window_ms": 2 * W})
    assert not (await Claims(redis, wider).take(0, needed=5, log_end=10, append_ms=1_000)).whole


async def test_a_release_that_redis_lost_is_detected(narrow: Settings, redis: Redis) -> None:
    claims = Claims(redis, narrow)
    lease, log = await some_claims(claims)
    replica = await keys_of(redis, narrow)
    await claims.release(lease, claims_of(log)[:1])
    for key, value in replica.items():
        await redis.set(key, value)
    with pytest.raises(ClaimsLost, match="changed"):
        await ask(claims, lease, log[6:])


async def test_a_request_from_before_dropped_claims_is_refused(narrow: Settings, redis: Redis) -> None:
    """A worker that was paused while others continued, and has the partition again, asks about earlier records."""
    claims = Claims(redis, narrow)
    old = [LoggedEvent(0, at, 1_000, 1_000, ("n", derive_foreign_id("t", 0, at, at)), KEYS[0]) for at in range(2)]
    new = [LoggedEvent(0, 2, 90_000, 90_000, ("n", derive_foreign_id("t", 0, 2, 2)), KEYS[0])]
    await ask(claims, await taken(claims), old)
    await ask(claims, await retaken(claims, needed=1, append_ms=90_000), new)
    lease = await retaken(claims, needed=2, append_ms=90_000)
    assert lease.whole
    with pytest.raises(ClaimsLost, match="dropped"):
        await ask(claims, lease, old[1:])
    assert not (await retaken(claims, needed=0, append_ms=1_000)).whole
