"""Claims client: owners of dedup keys. The owners are in Redis; the worker that holds a partition has an index."""

import bisect
import hashlib
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from consumers.claims import script
from consumers.claims.owners import (
    OWNER_BYTES,
    DuplicateResolver,
    Int64Array,
    Owner,
    OwnerRows,
    append_ms_of,
    fingerprints,
    fingerprints_near,
    offsets_of,
    rows_from,
    rows_with_repeated_key,
)
from consumers.claims.script import EPOCH_BYTES, LAYOUT_BYTES, PLACE, SPACE_BYTES
from kernels.boundary import ClaimIndex
from runtime.errors import Restart
from runtime.faults.redis import REDIS_FAILED, redis_fault
from runtime.redis import Redis
from runtime.settings import Settings

LAYOUT = 5
"""Layout version of the claims in Redis. Changing it makes workers rebuild the claims of every partition."""

CHUNK_OWNERS = 8_190
"""Maximum owners per chunk: 448 KiB (with its header, a size of Redis's allocator), written in a fraction of a ms."""
CHUNKS_PER_LOAD = 16
"""Chunks per read: 7 MiB."""
READS_PER_CALL = 2_000
"""Maximum owners that one call reads: Redis needs about 1 us for each."""
_MAX_CLAIM_NUMBER = 2**31


class Fenced(Restart):
    """Error of a worker whose partition another worker has taken. It leaves the group and joins it again."""


class ClaimsLost(Exception):
    """Error of claims that are gone or incomplete, and have to be rebuilt. The message gives the reason."""


class Span(NamedTuple):
    """Range of consecutive records of one partition, with or without a key, whose keys are claimed together."""

    first_offset: int
    first_append_ms: int
    last_offset: int
    last_append_ms: int

    def up_to(self, rows: OwnerRows) -> "Span":
        """Return the part that ends with the last of some events."""
        return self._replace(last_offset=int(offsets_of(rows)[-1]), last_append_ms=int(append_ms_of(rows).max()))


class _Chunk(NamedTuple):
    number: int
    first_claim: int
    last_append_ms: int


@dataclass
class Lease:
    """One worker's right to a partition's claims until another worker takes it, with its index of the claims."""

    partition: int
    epoch: bytes
    space: bytes
    count: int
    """Number of calls that have changed the claims, as far as this worker knows."""
    whole: bool
    """False: the claims were lost, and have to be restored before anything is claimed."""
    first_chunk: int
    """First chunk that has to be loaded before anything is claimed."""
    next_chunk: int
    index: ClaimIndex = field(default_factory=ClaimIndex)
    chunks: list[_Chunk] = field(default_factory=list)
    """Chunks whose owners still matter, in order."""
    next_claim: int = 0

    @property
    def claims_held(self) -> int:
        """Number of known claims that still matter."""
        return self.next_claim - self.chunks[0].first_claim if self.chunks else 0

    def add(self, chunk: int, rows: OwnerRows, window_ms: int) -> None:
        """Add the owners of a chunk to the index."""
        numbers = np.arange(self.next_claim, self.next_claim + len(rows), dtype=np.uint32)
        self.index.add(fingerprints(rows, window_ms), numbers)
        self.chunks.append(_Chunk(chunk, self.next_claim, int(append_ms_of(rows).max())))
        self.next_claim += len(rows)

    def forget_before(self, reach_ms: int) -> None:
        """Forget chunks of owners appended before `reach_ms`: they cannot match any more."""
        gone = 0
        while gone < len(self.chunks) and self.chunks[gone].last_append_ms < reach_ms:
            gone += 1
        del self.chunks[:gone]
        self.index.forget_before(self.chunks[0].first_claim if self.chunks else self.next_claim)
        if self.next_claim > _MAX_CLAIM_NUMBER:
            lower = self.index.renumber()
            self.chunks = [each._replace(first_claim=each.first_claim - lower) for each in self.chunks]
            self.next_claim -= lower

    def place(self, claim: int) -> tuple[int, int]:
        """Return the number of a claim's chunk, and the claim's position in it in bytes."""
        chunk = self.chunks[bisect.bisect_right(self.chunks, claim, key=lambda each: each.first_claim) - 1]
        return chunk.number, (claim - chunk.first_claim) * OWNER_BYTES


class Claims:
    """Claims of one topic. Every Redis key of a partition has the partition's hash tag, for Redis Cluster.

    Every method raises Unavailable when Redis does not answer, and all but `take` and `load` raise Fenced once another
    worker has taken the partition.
    """

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis = redis
        self._script = redis.register_script(script.SCRIPT)
        self._prefix = f"{settings.key_prefix}:{{{settings.topic}:"
        self._window_ms = settings.dedup_window_ms
        self._ttl_ms = settings.claim_ttl_ms
        self._reach_back_ms = settings.reach_back_ms
        self._skew_ms = settings.clock_skew_ms
        layout = b"%d %d %d" % (LAYOUT, self._window_ms, self._ttl_ms)
        self._layout = hashlib.blake2b(layout, digest_size=LAYOUT_BYTES).digest()

    async def take(self, partition: int, *, needed: int, log_end: int, append_ms: int, again: bool = False) -> Lease:
        """Take the lease on a partition's claims; the worker that had it is fenced from here on.

        The claims are whole if they cover every offset up to `needed` (-1: none) and all owners that a record appended
        at `append_ms` may match. They must be of a log that ends at `log_end`. `again` gives them up in any case.
        Taking alone proves nothing: a worker that slept through a rebalance takes the lease, too. The caller must make
        sure that it is still a member of the group, and then `load`.
        """
        epoch, space = secrets.token_bytes(EPOCH_BYTES), secrets.token_bytes(SPACE_BYTES)
        lease = Lease(partition, epoch, space, 0, False, 0, 0)
        reach_ms = append_ms - self._reach_back_ms
        answer, lease.space, lease.count, lease.first_chunk, lease.next_chunk = await self._call(
            "take", lease, [], needed, log_end, append_ms, self._ttl_ms, reach_ms, self._skew_ms, int(again)
        )
        lease.whole = answer == b"held"
        return lease

    async def load(self, lease: Lease) -> None:
        """Load the owners of the claims into the lease's index. Raises ClaimsLost."""
        while lease.first_chunk < lease.next_chunk:
            numbers = range(lease.first_chunk, min(lease.next_chunk, lease.first_chunk + CHUNKS_PER_LOAD))
            try:
                found: Any = await self._redis.mget([self._chunk_key(lease, number) for number in numbers])
            except REDIS_FAILED as error:
                raise redis_fault(error) from error
            if None in found:
                raise ClaimsLost("a chunk of them is gone")
            owners = sum(map(len, found)) / OWNER_BYTES
            lease.index.make_room_for(int(owners / len(numbers) * (lease.next_chunk - lease.first_chunk)))
            for number, raw in zip(numbers, found, strict=True):
                lease.add(number, rows_from(raw), self._window_ms)
            lease.first_chunk += len(numbers)

    async def claim(
        self, lease: Lease, span: Span, rows: OwnerRows, flags: Mapping[int, int], uncommitted_ms: int
    ) -> dict[int, Owner]:
        """Claim the key of each event, in offset order. Returns the owners of duplicates, by position.

        Owners that were appended 2W (and a clock's skew) before the first uncommitted record, at `uncommitted_ms`,
        cannot match any more, and are forgotten. Claiming again gives the same answers. Raises ClaimsLost.
        """
        reach_ms = min(uncommitted_ms, span.first_append_ms) - self._reach_back_ms
        duplicates: dict[int, Owner] = {}
        # Without any event there is still a call: it advances the last claimed offset.
        for start in range(0, max(1, len(rows)), CHUNK_OWNERS):
            some = rows[start : start + CHUNK_OWNERS]
            span_of_some = span.up_to(some) if start + CHUNK_OWNERS < len(rows) else span
            flags_of_some = {at - start: flag for at, flag in flags.items() if start <= at < start + CHUNK_OWNERS}
            found = await self._claim(lease, span_of_some, some, flags_of_some, reach_ms)
            duplicates.update((start + at, owner) for at, owner in found.items())
        return duplicates

    async def _claim(
        self, lease: Lease, span: Span, rows: OwnerRows, flags: Mapping[int, int], reach_ms: int
    ) -> dict[int, Owner]:
        lease.forget_before(reach_ms)
        positions, known = self._candidates(lease, rows)
        doubtful = sorted({*positions.tolist(), *rows_with_repeated_key(rows).tolist(), *flags})
        resolver = DuplicateResolver(self._window_ms)
        resolver.learn(await self._read(lease, known), known)
        resolution = resolver.resolve(rows, doubtful, flags)
        owners = np.delete(rows, resolution.not_new_owners, axis=0)
        dead = [lease.place(number) for number in resolution.tombstoned]
        keys = [self._chunk_key(lease, number) for number in (lease.next_chunk, *(chunk for chunk, _ in dead))]
        wheres = [where for _, where in dead]
        times = (self._ttl_ms, reach_ms, self._skew_ms)
        await self._call("claim", lease, keys, *span, *times, lease.next_chunk, owners.tobytes(), *wheres)
        self._index_chunk(lease, owners)
        return resolution.duplicates

    def _index_chunk(self, lease: Lease, owners: OwnerRows) -> None:
        if len(owners):
            lease.add(lease.next_chunk, owners, self._window_ms)
            lease.next_chunk += 1

    def _candidates(self, lease: Lease, rows: OwnerRows) -> tuple[Int64Array, list[int]]:
        """Return the positions of events that may have an owner, and the numbers of all claims that may be one."""
        of, wanted = fingerprints_near(rows, self._window_ms)
        positions, numbers = lease.index.find(wanted)
        return of[positions], np.unique(numbers).tolist()

    async def _read(self, lease: Lease, claims: Sequence[int]) -> bytes:
        """Return the owners of these claims, concatenated."""
        found = []
        for start in range(0, len(claims), READS_PER_CALL):
            places = [lease.place(claim) for claim in claims[start : start + READS_PER_CALL]]
            chunks = sorted({chunk for chunk, _ in places})
            which = {chunk: at for at, chunk in enumerate(chunks)}
            packed = b"".join(PLACE.pack(which[chunk], where) for chunk, where in places)
            _, owners = await self._call("read", lease, [self._chunk_key(lease, each) for each in chunks], packed)
            found.append(owners)
        return b"".join(found)

    async def restore(self, lease: Lease, owners: OwnerRows) -> None:
        """Add owners (up to CHUNK_OWNERS, in offset order) to claims that were lost. Raises ClaimsLost."""
        keys = [self._chunk_key(lease, lease.next_chunk)]
        await self._call("restore", lease, keys, lease.next_chunk, self._ttl_ms, owners.tobytes())
        self._index_chunk(lease, owners)

    async def finish(self, lease: Lease, *, last_offset: int, append_ms: int, reach_ms: int) -> None:
        """Declare the restored claims whole: up to an offset and its append time, from `reach_ms` on.

        Raises ClaimsLost.
        """
        await self._call("finish", lease, [], last_offset, append_ms, reach_ms)
        lease.whole = True

    async def release(self, lease: Lease, rows: OwnerRows) -> None:
        """Release the claims of events that will not be stored."""
        _, known = self._candidates(lease, rows)
        found, own = rows_from(await self._read(lease, known)), {row.tobytes() for row in rows}
        places = [lease.place(number) for number, row in zip(known, found, strict=True) if row.tobytes() in own]
        keys = [self._chunk_key(lease, chunk) for chunk, _ in places]
        await self._call("release", lease, keys, *(where for _, where in places))

    async def forget_all(self, partitions: Iterable[int]) -> None:
        """Make every worker rebuild the claims of these partitions, because the stored rows have changed."""
        for partition in partitions:
            await self.take(partition, needed=-1, log_end=0, append_ms=0, again=True)

    def _state_key(self, lease: Lease) -> bytes:
        return f"{self._prefix}{lease.partition}}}".encode()

    def _chunk_key(self, lease: Lease, number: int) -> bytes:
        return b"%b:%b%b" % (self._state_key(lease), lease.space, number.to_bytes(8, "big"))

    async def _call(self, operation: str, lease: Lease, chunk_keys: Sequence[bytes], *arguments: int | bytes) -> Any:
        try:
            answer = await self._script(
                keys=[self._state_key(lease), *chunk_keys],
                args=[operation, self._layout, lease.epoch, lease.space, lease.count, *arguments],
            )
        except REDIS_FAILED as error:
            raise redis_fault(error) from error
        if answer[0] == b"fenced":
            raise Fenced(f"partition {lease.partition} has been taken by another worker")
        if answer[0] == b"lost" and operation != "take":
            raise ClaimsLost(answer[1].decode())
        if operation not in ("take", "read"):
            lease.count += 1
        return answer
