"""Transactions of foreign producers, each followed by its marker on the log."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaProducer

from tests.lab import Lab


@asynccontextmanager
async def transactional_producer(lab: Lab) -> AsyncIterator[AIOKafkaProducer]:
    """A producer with this test's transactional id. All markers of its transactions are on the log afterwards.

    The end of a transaction is acknowledged before its marker is written, but the next producer of the same id waits
    for it.
    """
    options = {"bootstrap_servers": lab.settings.kafka, "transactional_id": lab.settings.topic}
    async with AIOKafkaProducer(**options) as producer:
        yield producer
    async with AIOKafkaProducer(**options):
        pass


async def put_in_a_transaction(
    lab: Lab,
    producer: AIOKafkaProducer,
    values: Sequence[bytes],
    *,
    keys: Sequence[bytes | None] | None = None,
    keep: bool = True,
) -> None:
    """Put values on partition 0 in one transaction, and commit or abort it."""
    await producer.begin_transaction()
    for value, key in zip(values, keys or [None] * len(values), strict=True):
        await producer.send_and_wait(lab.settings.topic, value, key=key, partition=0)
    await (producer.commit_transaction() if keep else producer.abort_transaction())
