"""Claims in Redis answer what the rule says, live and after any redelivery."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from runtime.claims import Claim, Claims, connect_redis
from runtime.errors import Fatal, Unavailable
from runtime.settings import Settings
from schemas.dedup import Occurrence, is_duplicate_of
from schemas.identity import derive_foreign_id

W = 1_000
KEYS = [bytes([number]) * 16 for number in range(3)]


@dataclass(frozen=True)
class Entry:
    """One event of a log."""

    key: bytes
    occurrence: Occurrence


def verdicts_by_the_rule(log: list[Entry]) -> list[str | None]:
    """The rule, over a whole log of one partition, without any store."""
    stored: list[Entry] = []
    verdicts: list[str | None] = []
    for entry in log:
        owners = [
            owner.occurrence
            for owner in stored
            if owner.key == entry.key and is_duplicate_of(entry.occurrence, owner.occurrence, W)
        ]
        verdicts.append(min(owners).interaction_id if owners else None)
        if not owners:
            stored.append(entry)
    return verdicts


@st.composite
def logs(draw: st.DrawFn) -> list[Entry]:
    """Append times that never go back, event times anywhere around them, steps that hit the window's edges."""
    steps = st.sampled_from([0, 1, W - 1, W, W + 1, 2 * W - 1, 2 * W])
    append_ms, offset, log = 10_000_000, draw(st.integers(0, 3)), []
    for _ in range(draw(st.integers(1, 25))):
        append_ms += draw(steps)
        offset += draw(st.integers(1, 3))
        event_ms = append_ms + draw(st.sampled_from([0, 0, -1, W, -W, 1 - W, W - 1, -5 * W, 3 * W]))
        interaction_id = derive_foreign_id("log", 0, offset, append_ms)
        log.append(Entry(draw(st.sampled_from(KEYS)), Occurrence(offset, interaction_id, event_ms, append_ms)))
    return log


def claims_of(log: list[Entry]) -> list[Claim]:
    return [
        Claim(e.key, e.occurrence.offset, e.occurrence.event_ms, e.occurrence.append_ms, e.occurrence.interaction_id)
        for e in log
    ]


@pytest.fixture
def narrow(settings: Settings) -> Settings:
    return settings.model_copy(update={"dedup_window_ms": W})


async def test_claims_follow_the_rule_and_redelivery_changes_nothing(narrow: Settings) -> None:
    runs = 0

    @given(logs(), st.data())
    @hypothesis_settings(max_examples=60)
    def check(log: list[Entry], data: st.DataObject) -> None:
        nonlocal runs
        runs += 1
        examples.append((log, data.draw(st.lists(st.integers(0, len(log)), max_size=3)), data.draw(st.integers(1, 9))))

    examples: list[tuple[list[Entry], list[int], int]] = []
    check()
    async with connect_redis(narrow) as redis:
        for number, (log, restarts, batch) in enumerate(examples):
            # Own keys per example, and a time to live that outlasts it: losing claims is another test's matter.
            own = narrow.model_copy(update={"key_prefix": f"{narrow.key_prefix}-{number}", "dedup_window_ms": W})
            claims = Claims(redis, own)
            expected = verdicts_by_the_rule(log)
            for start in [0, *restarts]:
                got: list[str | None] = []
                for at in range(start, len(log), batch):
                    got += await claims.claim(0, claims_of(log[at : at + batch]))
                assert got == expected[start:]


async def test_owners_out_of_reach_are_forgotten_without_changing_a_verdict(narrow: Settings) -> None:
    """As the pipeline asks: batch by batch, each batch perhaps twice, and naming how far back it can reach."""
    examples: list[tuple[list[Entry], int]] = []

    @given(logs(), st.integers(1, 9))
    @hypothesis_settings(max_examples=60)
    def collect(log: list[Entry], batch: int) -> None:
        examples.append((log, batch))

    collect()
    async with connect_redis(narrow) as redis:
        for number, (log, batch) in enumerate(examples):
            claims = Claims(redis, narrow.model_copy(update={"key_prefix": f"{narrow.key_prefix}-{number}"}))
            expected = verdicts_by_the_rule(log)
            for at in range(0, len(log), batch):
                asking = claims_of(log[at : at + batch])
                reach_ms = asking[0].append_ms - 2 * W
                for _ in range(2):
                    assert await claims.claim(0, asking, reach_ms) == expected[at : at + batch]


async def test_an_event_asked_about_again_owns_its_key_once(narrow: Settings) -> None:
    async with connect_redis(narrow) as redis:
        claims = Claims(redis, narrow)
        for _ in range(3):
            await claims.claim(0, [Claim(KEYS[0], 1, 1000, 1000, derive_foreign_id("t", 0, 1, 1000))])
        (key,) = [key async for key in redis.scan_iter(f"{narrow.key_prefix}*")]
        assert await redis.strlen(key) == 40


async def test_a_key_that_returns_for_ever_keeps_few_owners(narrow: Settings) -> None:
    async with connect_redis(narrow) as redis:
        claims = Claims(redis, narrow)
        for number in range(200):
            at_ms = 1_000_000 + number * W
            claim = Claim(KEYS[0], number, at_ms, at_ms, derive_foreign_id("t", 0, number, at_ms))
            assert await claims.claim(0, [claim], at_ms - 2 * W) == [None]
        (key,) = [key async for key in redis.scan_iter(f"{narrow.key_prefix}*")]
        assert await redis.strlen(key) <= 3 * 40


async def test_partitions_do_not_know_each_other(narrow: Settings) -> None:
    async with connect_redis(narrow) as redis:
        claims = Claims(redis, narrow)
        one = Claim(KEYS[0], 1, 1000, 1000, derive_foreign_id("t", 0, 1, 1000))
        other = Claim(KEYS[0], 2, 1000, 1000, derive_foreign_id("t", 1, 2, 1000))
        assert await claims.claim(0, [one]) == [None]
        assert await claims.claim(1, [other]) == [None]
        assert await claims.claim(0, [other]) == [one.interaction_id]


async def test_claims_share_their_partitions_hash_tag_and_expire(narrow: Settings) -> None:
    async with connect_redis(narrow) as redis:
        await Claims(redis, narrow).claim(3, [Claim(KEYS[1], 1, 1000, 1000, derive_foreign_id("t", 3, 1, 1000))])
        (key,) = [key async for key in redis.scan_iter(f"{narrow.key_prefix}*")]
        assert key == f"{narrow.key_prefix}:{{{narrow.topic}:3}}:".encode() + KEYS[1]
        assert 0 < await redis.pttl(key) <= narrow.claim_ttl_ms


async def test_a_redis_that_evicts_is_refused(narrow: Settings) -> None:
    async with connect_redis(narrow) as redis:
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
