"""Session signals of a worker: the events of sessions that it stores, for retrievers with a learning configuration.

Each event counts once, whatever crashes (`runtime/session_signals.lua`). Without any configuration nothing is computed
or sent.
"""

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from consumers.events import Events
from consumers.session_events import BatchSignals, Configured, joined_by_session
from runtime.deletions import Deletion
from runtime.faults.redis import REDIS_FAILED, redis_fault
from runtime.learning_configs import ConfigInForce, LearningConfigs, RetrieverKey
from runtime.redis import Redis
from runtime.retry import retrying
from runtime.session_signals import AppliedRange, SessionEvents, SessionPlace, SessionSignals
from runtime.settings import Settings
from schemas.identity import id_bytes


class _Sent(NamedTuple):
    """Last range of a partition that Redis has."""

    next_offset: int
    fingerprint: str


class SessionSender:
    """Sender of the session signals of a worker's groups."""

    def __init__(self, settings: Settings, redis: Redis, configs: LearningConfigs) -> None:
        self._redis = redis
        self._signals = SessionSignals(settings)
        self._configs = configs
        self._check_every_s = settings.session_check_ms / 1000
        self._known: Mapping[RetrieverKey, ConfigInForce] = {}
        self._configured = Configured({})
        self._sent: dict[int, _Sent] = {}
        self._times_forgotten = 0
        self._checked_at = 0.0

    def configured(self) -> Configured:
        """Return the retrievers that are configured now."""
        if self._known is not self._configs.in_force:
            self._known = self._configs.in_force
            found = {retriever: each.first_version for retriever, each in self._known.items()}
            if found != self._configured.first_versions:
                self._configured = Configured(found)
        return self._configured

    def collect(self, *selections: Events) -> BatchSignals:
        """Return the events that count among the selections of one batch."""
        found = BatchSignals(self.configured())
        if found.configured:
            for events in selections:
                if len(events):
                    found.add(events)
        return found

    def forget(self, partitions: Iterable[int]) -> None:
        """Forget revoked partitions."""
        self._times_forgotten += 1
        for partition in partitions:
            self._sent.pop(partition, None)

    async def send(
        self, batches: Sequence[BatchSignals], offsets: Mapping[int, tuple[int, int]], gone: Collection[Deletion]
    ) -> None:
        """Send the signals of stored batches, which cover these offsets by partition: the first and the one after.

        Deleted events do not count, and their sessions are emptied, because an earlier run may have counted them.
        """
        configured = batches[-1].configured if batches else self._configured
        if not configured:
            self._sent.clear()
            return
        ranges = []
        for partition, (first, following) in offsets.items():
            sent = self._sent.get(partition)
            # Offsets without records, as those of transaction markers, are no loss.
            ranges.append(AppliedRange(partition, first if sent is None else sent.next_offset, following))
        deleted = {(id_bytes(each.interaction_id), each.namespace) for each in gone}
        sessions, emptied = joined_by_session(batches, deleted)
        await self._apply(configured, ranges, sessions, emptied)

    async def check(self, next_offsets: Mapping[int, int]) -> None:
        """Make sure that Redis has everything before these offsets, by partition; called while nothing arrives.

        Redis is called for new partitions, after a change of the configured retrievers, and every
        TALLY_SESSION_CHECK_MS.
        """
        configured = self.configured()
        if not configured:
            return
        is_due = time.monotonic() >= self._checked_at + self._check_every_s
        wanted = [
            AppliedRange(partition, following, following)
            for partition, following in next_offsets.items()
            if is_due or self._sent.get(partition) != _Sent(following, configured.fingerprint)
        ]
        if wanted:
            await self._apply(configured, wanted, [], ())
            self._checked_at = time.monotonic()

    async def _apply(
        self,
        configured: Configured,
        ranges: Sequence[AppliedRange],
        sessions: Sequence[SessionEvents],
        emptied: Collection[SessionPlace],
    ) -> None:
        times_forgotten = self._times_forgotten
        attempt = partial(self._try_to_apply, configured.fingerprint, ranges, sessions, emptied)
        await retrying("sending session signals", attempt)
        if times_forgotten == self._times_forgotten:
            for each in ranges:
                self._sent[each.partition] = _Sent(each.next_offset, configured.fingerprint)

    async def _try_to_apply(
        self,
        fingerprint: str,
        ranges: Sequence[AppliedRange],
        sessions: Sequence[SessionEvents],
        emptied: Collection[SessionPlace],
    ) -> None:
        try:
            await self._signals.apply(self._redis, fingerprint, ranges, sessions, emptied)
        except REDIS_FAILED as error:
            raise redis_fault(error) from error
