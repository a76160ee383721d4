"""Kafka producers, each of which replaces a failed one."""

import asyncio
from contextlib import AsyncExitStack

from aiokafka import AIOKafkaProducer

from runtime import kafka
from runtime.settings import Settings
from runtime.tasks import start


class ProducerClients:
    """Kafka producers, each of which replaces the one before."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._open = AsyncExitStack()

    async def open_next(self) -> AIOKafkaProducer:
        """Open a client, and close the previous one in the background. Raises Unavailable and Fatal."""
        fresh = AsyncExitStack()
        client = await fresh.enter_async_context(kafka.producer(self._settings))
        before, self._open = self._open, fresh
        fresh.push_async_callback(asyncio.wait, [start(before.aclose(), "closing a Kafka producer")])
        return client

    async def close(self) -> None:
        """Close all clients, once unsent records of the last one are sent."""
        await self._open.aclose()
