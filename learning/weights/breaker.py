"""Circuit breaker of each retriever: after a slow or failed attempt no request waits for the stores for some time."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from runtime.learning_configs import RetrieverKey
from runtime.metrics import WEIGHTS_BREAKER_OPEN


class BreakerOpen(Exception):
    """The circuit breaker of the retriever is open."""


class CircuitBreakers:
    """Circuit breakers of one process.

    One is open for `open_s` after a failure. Then one request may try; the others wait for its result as if it were
    still open. Only breakers that are open are kept in memory.
    """

    def __init__(self, open_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._open_s = open_s
        self._clock = clock
        self._open_until: dict[RetrieverKey, float] = {}
        self._probed: set[RetrieverKey] = set()
        """Retrievers with a request that tries whether the stores answer again."""

    @contextmanager
    def attempt(self, retriever: RetrieverKey) -> Iterator[None]:
        """Read the stores for a request. An error opens the breaker, a success closes it. Raises BreakerOpen."""
        until = self._open_until.get(retriever)
        is_probe = until is not None
        if until is not None and (self._clock() < until or retriever in self._probed):
            raise BreakerOpen
        if is_probe:
            self._probed.add(retriever)
        try:
            yield
            if is_probe:
                self.close(retriever)
        except Exception:
            self._open_until[retriever] = self._clock() + self._open_s
            WEIGHTS_BREAKER_OPEN.set(len(self._open_until))
            raise
        finally:
            if is_probe:
                self._probed.discard(retriever)

    def close(self, retriever: RetrieverKey) -> None:
        """Close the circuit breaker of a retriever, if it is open."""
        if self._open_until.pop(retriever, None) is not None:
            WEIGHTS_BREAKER_OPEN.set(len(self._open_until))
