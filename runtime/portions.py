"""Portions: items in order, split so that each portion is bounded in number and size."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def portions(items: Iterable[T], size_of: Callable[[T], int], *, max_items: int, max_size: int) -> Iterator[list[T]]:
    """Yield portions of at most `max_items` items and a sum of sizes of `max_size`; a larger item is one of its own."""
    portion: list[T] = []
    total = 0
    for item in items:
        size = size_of(item)
        if portion and (len(portion) == max_items or total + size > max_size):
            yield portion
            portion, total = [], 0
        portion.append(item)
        total += size
    if portion:
        yield portion
