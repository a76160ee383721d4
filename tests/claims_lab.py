"""Logs to claim from, and ways to ask for claims."""

from typing import Any

from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from runtime.claims import Claim, Claims, Lease, Span
from runtime.redis import Redis
from runtime.settings import Settings
from schemas.identity import derive_foreign_id
from tests.reference import Logged

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
