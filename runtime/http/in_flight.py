"""Limit of the requests of one kind that one process answers at a time."""

from collections.abc import Iterator
from contextlib import contextmanager

from runtime.http.errors import unavailable


class InFlightLimit:
    """Limit of `most` requests of a `kind` in flight. `setting` is the setting that changes it."""

    def __init__(self, most: int, kind: str, setting: str) -> None:
        self._most = most
        self._refusal = f"{most} {kind} are in flight ({setting}): retry later"
        self._running = 0

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Count a request until the block ends. Raises ApiError 503 at the limit."""
        if self._running >= self._most:
            raise unavailable(self._refusal)
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1
