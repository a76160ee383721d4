"""Where a worker's time goes: wall-clock seconds by stage.

Stages of neighbouring batches overlap, so they may add up to more than has passed.
"""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from runtime.metrics import STAGE_SECONDS


class Stages:
    """Seconds by stage since the worker started."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Count the time of the block as this stage's."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - begun
            self._seconds[name] += seconds
            STAGE_SECONDS.labels(name).inc(seconds)

    def as_text(self) -> str:
        """One line for people."""
        return ", ".join(f"{name} {seconds:.2f} s" for name, seconds in self._seconds.items())
