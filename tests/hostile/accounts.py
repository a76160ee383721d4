"""Accounts of an attacked topic: expected and recorded outcome of each offset."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from readers.audit import audit
from readers.deep_audit import deep_audit
from tally.dead_letters.reading import Selection, read_letters
from tests.hostile.raw_producer import RawProducer, RawRecord, batch_of
from tests.lab import Lab, as_json, execution_on

Place = tuple[int, int]
DUPLICATE = "same_key"
"""The only reason that is not a rejection."""


class AttackedTopic:
    """Topic with hostile batches among those of a neighbour on the same partition."""

    PARTITION = 0

    def __init__(self, lab: Lab, raw: RawProducer) -> None:
        self.lab = lab
        self._raw = raw
        self._events = 0
        self.records = 0
        """Number of events put on the topic."""
        self.stored: set[Place] = set()
        """Where events are that must be stored."""
        self.others: dict[Place, str] = {}
        """Where records are that must be rejected or duplicates, and for which reason."""

    def event(self, namespace: str = "attacker") -> RawRecord:
        """A valid event that no other one repeats."""
        self._events += 1
        headers = [(b"tally-namespace", namespace.encode())]
        execution = execution_on(self.PARTITION, f"{namespace} {self._events}", namespace=namespace)
        return RawRecord(as_json(execution=execution), headers=headers)

    async def send(self, batch: bytes, reasons: Sequence[str | None]) -> int:
        """Put a batch on the topic; by record, the reason why it must not be stored, or None."""
        first = await self._raw.send(self.lab.settings.topic, self.PARTITION, batch)
        self.records += len(reasons)
        for offset, reason in enumerate(reasons, first):
            if reason is None:
                self.stored.add((self.PARTITION, offset))
            else:
                self.others[self.PARTITION, offset] = reason
        return first

    async def neighbours(self, count: int = 20) -> None:
        """Put events of another tenant on the topic."""
        await self.send(batch_of([self.event("neighbour") for _ in range(count)]), [None] * count)

    async def drain(self, **overrides: Any) -> None:
        """Let a worker read to the end of the topic without failing, and check its outcomes."""
        await self.lab.drain(**overrides)
        await self.check()

    async def check(self) -> None:
        """Raise AssertionError unless each offset and its letter have the expected outcome."""
        stored = await self.lab.rows("SELECT _partition, _offset FROM interactions FINAL")
        assert {(partition, offset) for partition, offset in stored} == self.stored
        outcomes = await self.lab.rows("SELECT _partition, _offset, reason FROM outcomes FINAL")
        assert {(partition, offset): reason for partition, offset, reason in outcomes} == self.others
        lettered = {}
        async for letter in read_letters(self.lab.settings, Selection()):
            lettered[letter.origin.partition, letter.origin.offset] = letter.reason
            if letter.reason in ("bad_batch", "batch_too_large"):
                assert (letter.key, letter.value, letter.headers) == (None, None, ())
                assert "the batch of offsets" in letter.message
        assert lettered == {place: reason for place, reason in self.others.items() if reason != DUPLICATE}
        await balances(self.lab, self.records)


@asynccontextmanager
async def attacked(lab: Lab) -> AsyncIterator[AttackedTopic]:
    """The lab's topic, with a connection to attack it through."""
    async with RawProducer(lab.settings.kafka) as raw:
        yield AttackedTopic(lab, raw)


async def balances(lab: Lab, records: int) -> None:
    """Raise AssertionError unless the audits account for this many records and copies of moved ones; none in flight."""
    accounts = [each async for each in audit(lab.settings, lab.database)]
    assert all(each.balances and not each.in_flight for each in accounts), accounts
    assert sum(each.accepted - each.moved for each in accounts) == records, accounts
    deep = await deep_audit(lab.settings, lab.database)
    assert deep.balances, deep
