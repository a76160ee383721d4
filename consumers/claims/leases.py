"""Leases of a worker on the claims of its partitions.

A lease is taken with a partition's first records; claims that are gone are rebuilt from ClickHouse first.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from consumers import failpoints
from consumers.batch import Range, Slice
from consumers.claims.client import Claims, ClaimsLost, Lease, Span
from consumers.claims.owners import Owner, OwnerRows
from consumers.claims.rebuild import Rebuild
from consumers.resume import Resume
from runtime.metrics import CLAIMS
from runtime.retry import retrying

Confirm = Callable[[dict[int, int]], Awaitable[None]]
"""Commit of the offsets that a worker starts at. Raises Fenced once the worker is no longer a member of the group."""

T = TypeVar("T")

log = logging.getLogger("tally.worker")


class FlushRequired(Exception):
    """Error of a decision that cannot be made before the batches in flight are stored and committed."""


class Leases:
    """Leases of one worker, under which it claims keys. A lease is taken once a partition's claims are whole."""

    def __init__(
        self, claims: Claims, resume: Resume, rebuild: Rebuild, confirm: Confirm, *, may_hold: bool = False
    ) -> None:
        """`may_hold`: valid events may be rejected (TALLY_REJECT_POLICY=hold), whatever an earlier run has claimed."""
        self._claims = claims
        self._resume = resume
        self._rebuild = rebuild
        self._confirm = confirm
        self._may_hold = may_hold
        self._leases: dict[int, Lease] = {}
        self._lost: set[int] = set()
        """Partitions whose claims are known to be incomplete, and have to be rebuilt."""
        self._taking = asyncio.Lock()
        """Held while claims are loaded or rebuilt: one partition at a time bounds the memory."""

    def forget(self, partitions: Iterable[int]) -> None:
        """Forget revoked partitions."""
        for partition in partitions:
            self._leases.pop(partition, None)
            self._lost.discard(partition)
        self.publish()

    def publish(self) -> None:
        """Update the gauge of claims. Threads of the metrics server must not read objects that the loop changes."""
        CLAIMS.set(sum(lease.claims_held for lease in self._leases.values()))

    async def claim(
        self, part: Slice, span: Span, events: OwnerRows, flags: Mapping[int, int], before: Sequence[Range]
    ) -> dict[int, Owner]:
        """Claim the keys of events of `part`, from its first record to the end of `span`.

        Returns the owners of duplicates, by position. Raises Fenced; ClaimsLost, after which all events of `part` must
        be claimed again; and FlushRequired when a lease has to be taken while the ranges in `before` are not stored.
        """
        of_partition = (each.first_append_ms for each in before if each.partition == part.partition)
        uncommitted_ms = next(of_partition, span.first_append_ms)

        async def ask(lease: Lease) -> dict[int, Owner]:
            return await self._claims.claim(lease, span, events, flags, uncommitted_ms)

        return await self._under_lease("claiming", part, before, ask)

    async def release(self, part: Slice, events: OwnerRows, before: Sequence[Range]) -> None:
        """Release the claims of events of `part` that will not be stored. Raises as `claim` does."""
        await self._under_lease("releasing claims", part, before, lambda lease: self._claims.release(lease, events))

    async def _under_lease(
        self, operation: str, part: Slice, before: Sequence[Range], ask: Callable[[Lease], Awaitable[T]]
    ) -> T:
        lost = part.partition in self._lost
        try:
            lease = self._leases.get(part.partition)
            if lease is None:
                if before:
                    raise FlushRequired
                async with self._taking:
                    lease = await self._take(part, again=lost)
            return await retrying(operation, lambda: ask(lease))
        except ClaimsLost as why:
            log.warning("claims of partition %d are lost (%s); rebuilding them from ClickHouse", part.partition, why)
            self._leases.pop(part.partition, None)
            self._lost.add(part.partition)
            raise

    async def _take(self, part: Slice, *, again: bool) -> Lease:
        """Take the lease. Every earlier record has its outcome, so claims must cover offsets up to that record only."""
        partition, before = part.partition, part.first_offset - 1
        log_end = max(self._resume.log_end(partition), part.next_offset)
        if self._may_hold:  # claims of later events are given up: one of them may be held now, and must own nothing
            log_end = part.first_offset
        again = again or await self._rebuild.must_give_up_claims(part)
        append_ms = part.first_append_ms
        take = partial(self._claims.take, partition, needed=before, log_end=log_end, append_ms=append_ms, again=again)
        lease = await retrying("taking claims", take)
        await failpoints.reached("taken")
        # Only after taking the lease: if the partition went to another worker before, the commit is refused. If it goes
        # to another worker later, that one takes the lease later, too.
        await self._confirm({partition: part.first_offset})
        if lease.whole:
            await retrying("loading claims", partial(self._claims.load, lease))
        else:
            await self._rebuild.run(lease, first_offset=part.first_offset, append_ms=append_ms)
        self._leases[partition] = lease
        self._lost.discard(partition)
        return lease


def span_of(part: Slice) -> Span:
    """Return the span of all records of a slice."""
    highest_ms = int(part.records.append_ms.max())  # a broker's clock may step back
    return Span(part.first_offset, part.first_append_ms, part.next_offset - 1, highest_ms)
