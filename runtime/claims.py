"""The claims client: who owns a dedup key, in Redis, asked for a partition's whole batch at once."""

import hashlib
import secrets
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from runtime.errors import Restart
from runtime.faults import REDIS_FAILED, redis_fault
from runtime.redis import Redis
from runtime.settings import Settings
from schemas.identity import id_bytes, id_from_bytes

_SCRIPT = (Path(__file__).parent / "claims.lua").read_text()
_EVENT = struct.Struct("<qqq16sB")
_OWNER = struct.Struct("<qqq16s")
_VERDICT = struct.Struct("<q16s")
_NOBODY = bytes(_VERDICT.size)

LAYOUT = 3
"""Of heads and claims in Redis; another number makes every partition's claims be rebuilt."""

# One script call holds Redis for about 4 us an event, so 1,000 events are 4 ms that nobody else is served.
EVENTS_PER_CALL = 1000

_ASKS_ONLY, _REPLAYED, _STORED = 1, 2, 4


class Fenced(Restart):
    """Another worker has taken the partition: this one must not go on. It leaves and joins the group anew."""


class ClaimsLost(Exception):
    """The partition's claims are gone, or not whole: they have to be rebuilt. The message says what was noticed."""


class Claim(NamedTuple):
    """One event that asks for its key. Times in milliseconds since 1970."""

    key: bytes
    offset: int
    event_ms: int
    append_ms: int
    interaction_id: str
    asks_only: bool = False
    """It is known not to be stored: it wants to know whose duplicate it is, and will own nothing."""
    replayed: bool = False
    is_stored: bool = False
    """It has a row already, and owns its key whatever else does."""


class Owner(NamedTuple):
    """The stored event that another one is a duplicate of."""

    offset: int
    interaction_id: str


class Span(NamedTuple):
    """The records of one partition that are asked about together, keyed or not."""

    first_offset: int
    first_append_ms: int
    last_offset: int
    last_append_ms: int


@dataclass
class Lease:
    """One worker's hold on a partition's claims, from taking it until another worker does."""

    partition: int
    epoch: bytes
    space: bytes
    count: int
    """How many calls have changed the claims, as this worker knows it."""
    whole: bool
    """False: the claims were lost, and have to be restored before anything is claimed."""


class Claims:
    """Claims of one topic. Every key of a partition carries the partition's hash tag, for Redis Cluster.

    Every method raises Unavailable when Redis cannot answer, and all but `take` raise Fenced when another worker
    has taken the partition since.
    """

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._script = redis.register_script(_SCRIPT)
        self._prefix = f"{settings.key_prefix}:{{{settings.topic}:"
        self._window_ms = settings.dedup_window_ms
        self._ttl_ms = settings.claim_ttl_ms
        self._reach_back_ms = settings.reach_back_ms
        layout = b"%d %d %d" % (LAYOUT, self._window_ms, self._ttl_ms)
        self._layout = hashlib.blake2b(layout, digest_size=8).digest()

    async def take(self, partition: int, *, needed: int, log_end: int, anew: bool = False) -> Lease:
        """Become the one who claims this partition's keys; who did before is fenced from here on.

        The claims are whole if they cover every offset up to `needed` (-1: none) and are of a log that ends at
        `log_end`. `anew` gives them up in any case. Taking alone proves nothing: a worker that slept through a
        rebalance takes too. The caller must make sure that the group still counts it in.
        """
        epoch, space = secrets.token_bytes(16), secrets.token_bytes(4)
        lease = Lease(partition, epoch, space, 0, whole=False)
        state, lease.space, lease.count = await self._call("take", lease, [], needed, log_end, int(anew))
        lease.whole = state == b"held"
        return lease

    async def claim(self, lease: Lease, span: Span, events: Sequence[Claim]) -> list[Owner | None]:
        """Claim each event's key, in offset order. Per event: None to store it, or whose duplicate it is.

        Owners that were appended 2W (and a clock's skew) before the span's first record can match nothing any more, and
        are forgotten when their key is written: what comes before it must be committed. Asking again gives the same
        answers. Raises ClaimsLost.
        """
        verdicts: list[Owner | None] = []
        # Without any event there is still a call: it is what keeps the last claimed offset up with what is stored.
        for chunk in _chunks(events) or [[]]:
            is_last = len(verdicts) + len(chunk) == len(events)
            end = (span.last_offset, span.last_append_ms) if is_last else (chunk[-1].offset, chunk[-1].append_ms)
            verdicts += await self._claim(lease, span._replace(last_offset=end[0], last_append_ms=end[1]), chunk)
        return verdicts

    async def _claim(self, lease: Lease, span: Span, events: Sequence[Claim]) -> list[Owner | None]:
        limits = (self._window_ms, self._ttl_ms, span.first_append_ms - self._reach_back_ms)
        packed = b"".join(map(_pack_event, events))
        _, answer = await self._call("claim", lease, events, *span, *limits, packed)
        return list(map(_read_owner, _pieces(answer, _VERDICT.size)))

    async def restore(self, lease: Lease, owners: Sequence[Claim]) -> None:
        """Put owners back into claims that were lost. Safe to repeat. Raises ClaimsLost."""
        for chunk in _chunks(owners):
            packed = b"".join(map(_pack_owner, chunk))
            await self._call("restore", lease, chunk, self._ttl_ms, packed)

    async def finish(self, lease: Lease, *, last_offset: int, append_ms: int, reach_ms: int) -> None:
        """Declare the restored claims whole: up to an offset and its append time, from `reach_ms` on.

        Raises ClaimsLost.
        """
        await self._call("finish", lease, [], last_offset, append_ms, reach_ms)
        lease.whole = True

    async def release(self, lease: Lease, owner: Claim) -> None:
        """Take an event's claim back: it will not be stored after all."""
        await self._call("release", lease, [owner], _pack_owner(owner))

    async def forget_all(self, partitions: Sequence[int]) -> None:
        """Make every worker rebuild the claims of these partitions, because the stored rows have changed."""
        for partition in partitions:
            await self.take(partition, needed=-1, log_end=0, anew=True)

    async def _call(self, operation: str, lease: Lease, events: Sequence[Claim], *arguments: int | bytes) -> Any:
        tag = f"{self._prefix}{lease.partition}}}".encode()
        keys = [tag, *(b"%b:%b%b" % (tag, lease.space, event.key) for event in events)]
        try:
            answer = await self._script(
                keys=keys, args=[operation, self._layout, lease.epoch, lease.space, lease.count, *arguments]
            )
        except REDIS_FAILED as error:
            raise redis_fault(error) from error
        if answer[0] == b"fenced":
            raise Fenced(f"partition {lease.partition} has been taken by another worker")
        if answer[0] == b"lost" and operation != "take":
            raise ClaimsLost(answer[1].decode())
        if operation != "take":
            lease.count += 1
        return answer


def _chunks(events: Sequence[Claim]) -> list[Sequence[Claim]]:
    return [events[start : start + EVENTS_PER_CALL] for start in range(0, len(events), EVENTS_PER_CALL)]


def _pieces(packed: bytes, size: int) -> Iterator[bytes]:
    return (packed[at : at + size] for at in range(0, len(packed), size))


def _pack_event(event: Claim) -> bytes:
    flags = _ASKS_ONLY * event.asks_only + _REPLAYED * event.replayed + _STORED * event.is_stored
    return _EVENT.pack(event.offset, event.event_ms, event.append_ms, id_bytes(event.interaction_id), flags)


def _pack_owner(owner: Claim) -> bytes:
    return _OWNER.pack(owner.offset, owner.event_ms, owner.append_ms, id_bytes(owner.interaction_id))


def _read_owner(packed: bytes) -> Owner | None:
    if packed == _NOBODY:
        return None
    offset, raw_id = _VERDICT.unpack(packed)
    return Owner(offset, id_from_bytes(raw_id))
