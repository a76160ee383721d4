"""Counts of clicks drawn from the exact expectations of the simulation: a log of any size without its events."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from learning.counts import BUCKETS, ClickCounts
from producers.simulation.behaviour import DEVICES
from producers.simulation.expected import enumerate_cells, events_per_session
from producers.simulation.people import DEFAULT_USERS
from producers.simulation.world import RETRIEVERS

Floats = npt.NDArray[np.float64]


class Drawn(NamedTuple):
    """Results of one retriever on one device: each pair of a query's ordering and a taste, by position."""

    item: npt.NDArray[np.int64]
    """Number of the pair of query and document, shape (orderings, positions)."""
    executions: Floats
    """Expected executions for each event of the log, shape (orderings, tastes)."""
    clicked: Floats
    """Probability of a click, shape (orderings, tastes, positions)."""

    def draw(self, events: int, source: np.random.Generator) -> ClickCounts:
        """Draw the counts of a log of about `events` events."""
        rate = self.executions[..., None] * events / BUCKETS
        runs = source.poisson(np.broadcast_to(rate, (*self.executions.shape, BUCKETS)))
        clicks = np.stack(
            [source.binomial(runs, chance[..., None]).sum(axis=1) for chance in np.moveaxis(self.clicked, -1, 0)],
            axis=1,
        )
        shown = np.broadcast_to(runs.sum(axis=1)[:, None], clicks.shape)
        return self._counts(shown, clicks)

    def expected(self) -> ClickCounts:
        """Return counts in proportion to the expected ones, all in one bucket, as multiples of 1e-12."""
        scale = 1e12
        shown = np.broadcast_to(self.executions.sum(axis=1)[:, None, None], (*self.item.shape, 1)) * scale
        clicks = np.einsum("ot,otp->op", self.executions, self.clicked)[..., None] * scale
        return self._counts(np.rint(shown).astype(np.int64), np.rint(clicks).astype(np.int64))

    def _counts(self, shown: npt.NDArray[np.int64], clicks: npt.NDArray[np.int64]) -> ClickCounts:
        """Sum counts of shape (orderings, positions, buckets) by item, position and bucket."""
        depth, buckets = shown.shape[1:]
        place = np.broadcast_to(np.arange(depth)[:, None], shown.shape[1:])
        bucket = np.broadcast_to(np.arange(buckets), shown.shape[1:])
        key = ((self.item[..., None] * depth + place) * buckets + bucket).ravel()
        kept = (shown.ravel() > 0) & np.repeat(self.item.ravel() >= 0, buckets)
        keys, index = np.unique(key[kept], return_inverse=True)
        impressions, clicked = (
            np.bincount(index, values.ravel()[kept].astype(np.float64)).astype(np.int64) for values in (shown, clicks)
        )
        _, item = np.unique(keys // (depth * buckets), return_inverse=True)
        return ClickCounts(item, keys // buckets % depth, keys % buckets, impressions, clicked)


def drawn(retriever: str = "dense") -> Iterator[tuple[str, Drawn]]:
    """Yield the results of a retriever on each device, which have the device's examination as their truth."""
    found = enumerate_cells(DEFAULT_USERS, {})
    number = [each.name for each in RETRIEVERS].index(retriever)
    documents = len(found.world.documents)
    per_event = 1 / events_per_session(DEFAULT_USERS, {})
    for place, device in enumerate(DEVICES):
        document = found.cells.document[number, :, :, 0, 0, : device.depth]
        queries, orderings, depth = document.shape
        item = np.arange(queries)[:, None, None] * documents + document
        listed = found.cells.shown[number, :, :, place, 0, : device.depth].reshape(-1, depth)
        clicked = found.cells.clicked[number, :, :, place, :, : device.depth]
        runs = found.runs.all[number, :, :, place, :, 0] * per_event
        yield (
            device.name,
            Drawn(
                np.where(listed > 0, item.reshape(-1, depth), -1),
                runs.reshape(queries * orderings, -1),
                clicked.reshape(queries * orderings, -1, depth),
            ),
        )
