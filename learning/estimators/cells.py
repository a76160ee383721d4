"""Counts by (item, position), resampled by random groups of executions."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


class ItemCells(NamedTuple):
    """Pairs of an item and a position at which it was shown, sorted. An entry of each array for each pair."""

    item: Integers
    position: Integers
    """Index of the position among the `positions` that were shown, in ascending order; 0 is the reference."""
    items: int
    """Number of items: `item` is below it."""
    positions: int

    def per_item(self, values: Floats) -> Floats:
        """Return the sum of the cells' values for each item."""
        return np.asarray(np.bincount(self.item, values, self.items), np.float64)

    def per_position(self, values: Floats) -> Floats:
        """Return the sum of the cells' values for each position."""
        return np.asarray(np.bincount(self.position, values, self.positions), np.float64)

    def compressed(self, kept: Mask) -> "ItemCells":
        """Return the kept cells, with items and positions numbered again from 0 in the same order."""
        item, items = _renumbered(self.item[kept], self.items)
        position, positions = _renumbered(self.position[kept], self.positions)
        return ItemCells(item, position, items, positions)


class GroupedCounts:
    """Numbers of each cell by random group of executions, such as impressions; shape (cells, groups)."""

    def __init__(self, first_rows: Integers, group: Integers, values: Floats, groups: int) -> None:
        ends = np.append(first_rows, len(group))
        shape = len(first_rows), groups
        self._matrix = sparse.csr_array((values, group.astype(np.int32), ends), shape=shape)

    def weighed(self, weights: Floats) -> Floats:
        """Return the sum over the groups, each times its weight, for each cell."""
        return np.asarray(self._matrix @ weights, np.float64)


def cells_of_rows(item: Integers, position: Integers) -> tuple[ItemCells, Integers]:
    """Return the cells of rows that are sorted by item and position, and the index of each cell's first row."""
    is_first = np.ones(len(item), np.bool_)
    is_first[1:] = (item[1:] != item[:-1]) | (position[1:] != position[:-1])
    first_rows = np.flatnonzero(is_first)
    shown, index = np.unique(position[first_rows], return_inverse=True)
    items = int(item[-1]) + 1 if len(item) else 0
    return ItemCells(item[first_rows], index.astype(np.int64), items, len(shown)), first_rows


def seen_elsewhere(cells: ItemCells, shown: Floats) -> Mask:
    """Return, for each cell that was shown, whether its item was shown at another position, too."""
    is_shown = shown > 0
    return is_shown & (cells.per_item(is_shown.astype(np.float64))[cells.item] > 1)


def _renumbered(numbers: Integers, size: int) -> tuple[Integers, int]:
    is_used = np.zeros(size, np.bool_)
    is_used[numbers] = True
    places = np.cumsum(is_used) - 1
    return places[numbers], int(is_used.sum())
