"""Answers that callers share for a short time, so that many viewers cost what one costs."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Shared = TypeVar("Shared")


class _SharedAnswer(Generic[Shared]):
    """Answer of one key; callers wait for the lock while one of them computes it."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.until = -math.inf
        self.value: Shared


class SharedAnswers(Generic[Key, Shared]):
    """Answers by key, each kept for `keep_s` seconds, at most `most` of them besides those that are computed."""

    def __init__(self, keep_s: float, most: int) -> None:
        self._keep_s = keep_s
        self._most = most
        self._answers: dict[Key, _SharedAnswer[Shared]] = {}

    async def get(self, key: Key, compute: Callable[[], Awaitable[Shared]]) -> Shared:
        """Return the answer of a key, computed by the first caller. After an error the next caller computes it."""
        self._forget()
        answer = self._answers.setdefault(key, _SharedAnswer())
        async with answer.lock:
            if time.monotonic() >= answer.until:
                answer.value = await compute()
                answer.until = time.monotonic() + self._keep_s
            return answer.value

    def _forget(self) -> None:
        """Drop old answers; all that are not being computed if there are still too many."""
        now = time.monotonic()
        idle = {key: answer for key, answer in self._answers.items() if not answer.lock.locked()}
        gone = [key for key, answer in idle.items() if now >= answer.until]
        if len(self._answers) - len(gone) >= self._most:
            gone = list(idle)
        for key in gone:
            del self._answers[key]
