"""Leases: this worker's hold on the claims of its partitions. It takes them with a partition's first records, and
rebuilds them from ClickHouse when they are gone."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from consumers import failpoints
from consumers.batch import Range, Slice
from consumers.claims.client import Claims, ClaimsLost, Lease, Span
from consumers.claims.owners import Claim, Owner, Rows
from consumers.claims.rebuild import Rebuild
from consumers.resume import Resume
from runtime.metrics import CLAIMS
from runtime.retry import retrying

Confirm = Callable[[dict[int, int]], Awaitable[None]]
"""Commits the offsets that a worker begins at. Raises Fenced when the group does not count it in any more."""

Result = TypeVar("Result")

log = logging.getLogger("tally.worker")


class Unsettled(Exception):
    """Error of a decision that needs batches in flight to be stored and committed first."""


class Leases:
    """Claims keys of a partition's records, and sees to it that the partition's claims are whole and this worker's."""

    def __init__(
        self, claims: Claims, resume: Resume, rebuild: Rebuild, confirm: Confirm, *, may_hold: bool = False
    ) -> None:
        """`may_hold`: valid events may be rejected (TALLY_REJECT_POLICY=hold), whatever an earlier run has claimed."""
        self._claims = claims
        self._resume = resume
        self._rebuild = rebuild
        self._confirm = confirm
        self._may_hold = may_hold
        self._held: dict[int, Lease] = {}
        self._lost: set[int] = set()
        """Partitions whose claims, to this worker's knowledge, must not be trusted as they are."""
        self._taking = asyncio.Lock()
        """Held while claims are loaded or rebuilt, so that the memory it takes is that of one partition."""

    def forget(self, partitions: Iterable[int]) -> None:
        """Forget revoked partitions."""
        for partition in partitions:
            self._held.pop(partition, None)
            self._lost.discard(partition)
        self.publish()

    def publish(self) -> None:
        """Update the gauge of claims. The metrics server's threads must not read what the event loop changes."""
        CLAIMS.set(sum(lease.claims_held for lease in self._held.values()))

    async def claim(
        self, part: Slice, span: Span, events: Rows, flags: Mapping[int, int], before: Sequence[Range]
    ) -> dict[int, Owner]:
        """Claim the keys of events of `part`, of its records from the first one to the end of `span`.

        Returns whose duplicates some of them are, by position. Raises Fenced; ClaimsLost, after which all events of
        `part` must be claimed once more; and Unsettled when the claims have to be taken or rebuilt, which goes by what
        is stored, while what is `before` is not.
        """
        ours = (each.first_append_ms for each in before if each.partition == part.partition)
        uncommitted_ms = next(ours, span.first_append_ms)

        async def ask(lease: Lease) -> dict[int, Owner]:
            return await self._claims.claim(lease, span, events, flags, uncommitted_ms)

        return await self._under_lease("claiming", part, before, ask)

    async def release(self, part: Slice, owner: Claim, before: Sequence[Range]) -> None:
        """Take back the claim of an event of `part` that will not be stored. Raises as `claim` does."""
        await self._under_lease("releasing a claim", part, before, lambda lease: self._claims.release(lease, owner))

    async def _under_lease(
        self, what: str, part: Slice, before: Sequence[Range], ask: Callable[[Lease], Awaitable[Result]]
    ) -> Result:
        lost = part.partition in self._lost
        try:
            lease = self._held.get(part.partition)
            if lease is None:
                if before:
                    raise Unsettled
                async with self._taking:
                    lease = await self._take(part, again=lost)
            return await retrying(what, lambda: ask(lease))
        except ClaimsLost as why:
            log.warning("partition %d: claims are lost (%s)", part.partition, why)
            self._held.pop(part.partition, None)
            self._lost.add(part.partition)
            raise

    async def _take(self, part: Slice, *, again: bool) -> Lease:
        """Everything before the part's first record is recorded, so the claims need to reach no further than that."""
        partition, before = part.partition, part.first_offset - 1
        log_end = max(self._resume.log_end(partition), part.next_offset)
        if self._may_hold:  # a claim of an event that is held now would make duplicates of it: none may lie ahead
            log_end = part.first_offset
        again = again or await self._rebuild.must_begin_anew(part)
        append_ms = part.first_append_ms
        take = partial(self._claims.take, partition, needed=before, log_end=log_end, append_ms=append_ms, again=again)
        lease = await retrying("taking claims", take)
        await failpoints.reached("taken")
        # Only now: had another worker been given the partition before, this would be refused; if it is given to
        # another one later, that one takes the claims later too.
        await self._confirm({partition: part.first_offset})
        if lease.whole:
            await retrying("loading claims", partial(self._claims.load, lease))
        else:
            await self._rebuild.run(lease, first_offset=part.first_offset, append_ms=append_ms)
        self._held[partition] = lease
        self._lost.discard(partition)
        return lease


def span_of(part: Slice) -> Span:
    """All records of a slice."""
    highest_ms = int(part.records.append_ms.max())  # a broker's clock may step back
    return Span(part.first_offset, part.first_append_ms, part.next_offset - 1, highest_ms)
