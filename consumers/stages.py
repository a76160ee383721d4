"""Wall-clock seconds of a worker by stage; stages of neighbouring batches overlap."""

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
        """Add the duration of the block to a stage."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - begun
            self._seconds[name] += seconds
            STAGE_SECONDS.labels(name).inc(seconds)

    def as_text(self) -> str:
        """Format the seconds as one line."""
        return ", ".join(f"{name} {seconds:.2f} s" for name, seconds in self._seconds.items())
