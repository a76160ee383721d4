"""Kafka clients that follow one another: one that is beyond repair is replaced, not repaired."""

import asyncio
from contextlib import AsyncExitStack
from typing import Self

from aiokafka import AIOKafkaProducer

from runtime import kafka
from runtime.settings import Settings
from runtime.tasks import start


class ProducerClients:
    """One Kafka client at a time. Leaving waits for what the last one has not sent yet."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._open = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self._open.aclose()

    async def open_next(self) -> AIOKafkaProducer:
        """A new client; the one before is closed behind everybody's back. Raises Unavailable and Fatal."""
        fresh = AsyncExitStack()
        client = await fresh.enter_async_context(kafka.producer(self._settings))
        before, self._open = self._open, fresh
        fresh.push_async_callback(asyncio.wait, [start(before.aclose(), "closing a Kafka producer")])
        return client
