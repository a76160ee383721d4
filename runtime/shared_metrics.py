"""Metrics of several API processes that share a port, added up by whichever process is asked.

Each process writes its samples to a file of its own in a common folder, every second and at each request for metrics.
A process that replaces an ended one takes over its file, and counts from there, so that no counter goes down.
"""

import asyncio
import json
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, Self

from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from runtime import metrics

WRITE_EVERY_S = 1.0
CURRENT_S = 5.0
"""Age up to which the gauges in a file count. A process that has not written for longer has ended, or hangs."""

_ADDED_GAUGES = {metrics.name_of(each) for each in metrics.ADDED_GAUGES} | {
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_virtual_memory_bytes",
}
_ADDED_TYPES = ("counter", "histogram")

log = logging.getLogger("tally.metrics")

Key = tuple[str, tuple[tuple[str, str], ...]]
"""Name and sorted labels of a sample."""


class _Samples(NamedTuple):
    """Samples of one process that are added to those of others."""

    counts: dict[Key, float]
    gauges: dict[Key, float]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the samples in a file; none from a missing one."""
        try:
            counts, gauges = json.loads(path.read_bytes())
            is_current = time.time() - path.stat().st_mtime < CURRENT_S
        except FileNotFoundError:
            return cls({}, {})
        return cls(_by_key(counts), _by_key(gauges) if is_current else {})

    def as_json(self) -> bytes:
        """Return the content of a file."""
        return json.dumps([[[*key, value] for key, value in part.items()] for part in self]).encode()


class SharedMetrics(Collector):
    """Metrics of this process and of those whose files are in the same folder."""

    def __init__(self, path: Path, registry: CollectorRegistry = REGISTRY) -> None:
        self._path = path
        self._registry = registry
        self._earlier = _Samples.read(path).counts
        self._lock = Lock()

    async def write_periodically(self) -> None:
        """Write the samples of this process, every WRITE_EVERY_S until cancelled."""
        while True:
            self.write()
            await asyncio.sleep(WRITE_EVERY_S)

    def write(self, *, has_ended: bool = False) -> None:
        """Write the samples of this process. One that has ended has no gauges."""
        own = self._own(list(self._registry.collect()))
        self._replace_file(own._replace(gauges={}) if has_ended else own)

    def text(self) -> bytes:
        """Return the sums in Prometheus' text format."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return generate_latest(registry)

    def collect(self) -> Iterator[Metric]:
        """Yield each metric of this process, with the samples of all processes added where adding makes sense."""
        families = list(self._registry.collect())
        own = self._own(families)
        self._replace_file(own)  # the next process asked must not answer less
        total: dict[Key, float] = {}
        # In one order whichever process is asked: rounding must not make a sum smaller, which would look like a reset.
        for path in sorted({self._path, *self._path.parent.glob("*.json")}):
            for part in own if path == self._path else _Samples.read(path):
                for key, value in part.items():
                    total[key] = _added(key, total.get(key), value)
        added: dict[str, list[Sample]] = {}
        for (name, labels), value in total.items():
            added.setdefault(name, []).append(Sample(name, dict(labels), value))
        for family in families:
            if is_added(family):
                suffixes = ("_total", "_created", "_bucket", "_count", "_sum") if family.type != "gauge" else ("",)
                family.samples = [each for suffix in suffixes for each in added.get(f"{family.name}{suffix}", ())]
            yield family

    def _own(self, families: list[Metric]) -> _Samples:
        """Return the samples of this process and, of counts, those of the processes that it has replaced."""
        found = _Samples(dict(self._earlier), {})
        for family in filter(is_added, families):
            for sample in family.samples:
                key = sample.name, tuple(sorted(sample.labels.items()))
                if family.type == "gauge":
                    found.gauges[key] = sample.value
                else:
                    found.counts[key] = _added(key, self._earlier.get(key), sample.value)
        return found

    def _replace_file(self, samples: _Samples) -> None:
        written = self._path.with_suffix(f".{os.getpid()}")
        try:
            with self._lock:
                written.write_bytes(samples.as_json())
                written.replace(self._path)
        except OSError as error:
            log.warning("writing metrics for other API processes failed, retrying in %g s: %s", WRITE_EVERY_S, error)


def is_added(family: Metric) -> bool:
    """Return whether the samples of several processes are added. Others describe the whole: any process has them."""
    return family.type in _ADDED_TYPES or family.name in _ADDED_GAUGES


def _added(key: Key, one: float | None, other: float) -> float:
    """Return the sum of a sample of two processes, or the earlier time of creation."""
    if one is None:
        return other
    return min(one, other) if key[0].endswith("_created") else one + other


def _by_key(entries: list[Any]) -> dict[Key, float]:
    return {(name, tuple((label, text) for label, text in labels)): value for name, labels, value in entries}
