"""Exclusive use of a static member's name (`--name`, `--instance`).

Kafka gives a name's partitions to the member that joined last, so two workers of one name would take them from each
other for ever. A worker therefore writes its name to Redis periodically. A newcomer that sees the name written ends; a
name that is not written for TALLY_SESSION_TIMEOUT_MS is free, as its partitions are.
"""

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

from runtime.errors import Fatal, SettingsError, reason_of
from runtime.faults.redis import REDIS_FAILED, redis_fault
from runtime.redis import Redis
from runtime.retry import retrying
from runtime.settings import Settings
from runtime.stack_file import process_exists
from runtime.tasks import running

BEATS_PER_TIMEOUT = 3
LOOKS_PER_TIMEOUT = 20

log = logging.getLogger("tally.worker")


class _Holder(NamedTuple):
    """Process that uses the name, and the number of its writes."""

    host: str
    pid: int
    nonce: str
    beat: int = 0

    @classmethod
    def parse(cls, text: str) -> "_Holder | None":
        """Parse the value in Redis; None if it is empty or was not written by a holder."""
        match text.split():
            case [host, pid, nonce, beat] if pid.isdigit() and beat.isdigit():
                return cls(host, int(pid), nonce, int(beat))
        return None

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    def has_ended(self, own: "_Holder") -> bool:
        """Whether its process has ended, as far as this host knows. Process ids repeat in a restarted container."""
        return self.host == own.host and (self.pid == own.pid or not process_exists(self.pid))


class InstanceLock:
    """Lock on the name of one worker. `check` raises once another worker has taken the name."""

    def __init__(self, redis: Redis, settings: Settings, instance: str) -> None:
        self._redis = redis
        self._instance = instance
        self._key = f"{settings.key_prefix}:instance:{settings.group}:{instance}"
        self._timeout_s = settings.session_timeout_ms / 1000
        self._own = _Holder(socket.gethostname(), os.getpid(), secrets.token_hex(8))
        self._taken_by: _Holder | None = None

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Hold the name while the block lasts. Raises SettingsError when a live worker has it."""
        await retrying("taking the worker's name", self._take)
        try:
            async with running(self._beat(), "confirming the worker's name"):
                yield
        finally:
            with suppress(*REDIS_FAILED):
                if self._is_own(await self._holder()):
                    await self._write(timeout_s=0.001)

    def check(self) -> None:
        """Raise Fatal when another worker has taken the name."""
        if self._taken_by is not None:
            raise Fatal(
                f"another worker has taken the name {self._instance} ({self._taken_by}), so this one ends: "
                "give each `tally consume` its own --name"
            )

    async def _take(self) -> None:
        try:
            before = await self._holder()
            while before is not None and not before.has_ended(self._own):
                await asyncio.sleep(self._timeout_s / LOOKS_PER_TIMEOUT)
                now = await self._holder()
                if now is not None and now != before:
                    raise SettingsError(
                        f"another worker runs under the name {self._instance} ({now}): choose another --name "
                        "(--instance), or stop that one first"
                    )
                before = now
            await self._write()
        except REDIS_FAILED as error:
            raise redis_fault(error) from error

    async def _beat(self) -> None:
        """Write the name periodically. Another holder that writes twice meanwhile has taken it."""
        other: _Holder | None = None
        while True:
            await asyncio.sleep(self._timeout_s / BEATS_PER_TIMEOUT)
            try:
                found = await self._holder()
                if found is None or self._is_own(found) or found == other:
                    await self._write()
                    other = None
                elif other is None:
                    other = found
                else:
                    self._taken_by = found
                    log.error("another worker has taken the name %s (%s); this one ends", self._instance, found)
                    return
            except REDIS_FAILED as error:
                log.warning("name %s not confirmed in Redis, trying again: %s", self._instance, reason_of(error))

    async def _holder(self) -> _Holder | None:
        found: Any = await self._redis.get(self._key)
        return _Holder.parse(bytes(found or b"").decode(errors="replace"))

    def _is_own(self, holder: _Holder | None) -> bool:
        return holder is not None and holder.nonce == self._own.nonce

    async def _write(self, *, timeout_s: float | None = None) -> None:
        self._own = self._own._replace(beat=self._own.beat + 1)
        text = " ".join(map(str, tuple(self._own)))
        await self._redis.set(self._key, text, px=max(1, round(1000 * (timeout_s or self._timeout_s))))
