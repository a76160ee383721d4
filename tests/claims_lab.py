"""Random logs, and helpers that request claims."""

import uuid
from typing import Any

from hypothesis import strategies as st

from consumers.claims.client import Claims, Lease, Span
from consumers.claims.owners import OWNER_BYTES, OwnerRows, rows_of
from runtime.redis import Redis
from runtime.settings import Settings
from schemas.identity import derive_foreign_id
from tests.reference import LoggedEvent

W = 1_000
KEYS = [bytes([number]) * 16 for number in range(3)]


@st.composite
def logs(draw: st.DrawFn) -> list[LoggedEvent]:
    """Append times that never go back, event times anywhere around them, steps that hit the window's edges."""
    steps = st.sampled_from([0, 1, W - 1, W, W + 1, 2 * W - 1, 2 * W])
    append_ms, offset, log = 10_000_000, draw(st.integers(0, 3)), []
    for _ in range(draw(st.integers(1, 25))):
        append_ms += draw(steps)
        offset += draw(st.integers(1, 3))
        event_ms = append_ms + draw(st.sampled_from([0, 0, -1, W, -W, 1 - W, W - 1, -5 * W, 3 * W]))
        identity = "n", derive_foreign_id("log", 0, offset, append_ms)
        log.append(LoggedEvent(0, offset, append_ms, event_ms, identity, draw(st.sampled_from(KEYS))))
    return log


def claims_of(log: list[LoggedEvent]) -> OwnerRows:
    return rows_of(
        [each.key or b"" for each in log],
        [each.offset for each in log],
        [each.event_ms for each in log],
        [each.append_ms for each in log],
        [each.identity[1] for each in log],
    )


def span_of(log: list[LoggedEvent]) -> Span:
    return Span(log[0].offset, log[0].append_ms, log[-1].offset, log[-1].append_ms)


async def taken(claims: Claims, partition: int = 0, append_ms: int = 1_000) -> Lease:
    """A lease on claims of a partition of which nothing has been read."""
    lease = await retaken(claims, needed=-1, append_ms=append_ms, partition=partition)
    if not lease.whole:
        await claims.finish(lease, last_offset=-1, append_ms=0, reach_ms=-10 * W)
    return lease


async def retaken(
    claims: Claims, *, needed: int, append_ms: int, log_end: int = 1_000_000, partition: int = 0
) -> Lease:
    """Take the lease for another worker, with the claims if none is missing."""
    lease = await claims.take(partition, needed=needed, log_end=log_end, append_ms=append_ms)
    if lease.whole:
        await claims.load(lease)
    return lease


def fresh(redis: Redis, narrow: Settings) -> Claims:
    """Claims of an example: nothing was claimed before."""
    return Claims(redis, narrow.model_copy(update={"key_prefix": f"{narrow.key_prefix}-{uuid.uuid4().hex}"}))


async def ask(claims: Claims, lease: Lease, log: list[LoggedEvent]) -> list[str | None]:
    return await ask_with_flags(claims, lease, span_of(log), claims_of(log), {})


async def ask_with_flags(
    claims: Claims, lease: Lease, span: Span, events: OwnerRows, flags: dict[int, int]
) -> list[str | None]:
    owners = await claims.claim(lease, span, events, flags, span.first_append_ms)
    return [owners[at].interaction_id if at in owners else None for at in range(len(events))]


async def some_claims(claims: Claims) -> tuple[Lease, list[LoggedEvent]]:
    lease = await taken(claims)
    log = [
        LoggedEvent(0, at, 1_000 + at, 1_000 + at, ("n", derive_foreign_id("t", 0, at, at)), KEYS[at % 3])
        for at in range(9)
    ]
    await ask(claims, lease, log[:6])
    return lease, log


async def keys_of(redis: Redis, settings: Settings) -> dict[bytes, bytes]:
    keys: list[Any] = [key async for key in redis.scan_iter(f"{settings.key_prefix}*")]
    values: list[Any] = [await redis.get(key) for key in keys]
    return dict(zip(keys, values, strict=True))


async def owners_in(redis: Redis, settings: Settings) -> list[bytes]:
    """The keys of all owners that own something, in order of their chunks."""
    chunks = sorted((key, value) for key, value in (await keys_of(redis, settings)).items() if b"}:" in key)
    owners = [value[at : at + OWNER_BYTES] for _, value in chunks for at in range(0, len(value), OWNER_BYTES)]
    return [owner[:16] for owner in owners if owner[16:24] != b"\xff" * 8]
