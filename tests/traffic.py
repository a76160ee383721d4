"""Simulated traffic for tests that identify events by execution, feature and types."""

from collections.abc import Iterator

from producers.simulation.simulator import Simulator
from schemas.interaction import Interaction


def keyed_traffic(seed: int, *, duplicates: float = 0.05) -> Iterator[Interaction]:
    """Yield simulated events that have a deduplication key; a few purchases have none."""
    return (event for event in Simulator(seed, duplicates=duplicates) if event.execution_id)
