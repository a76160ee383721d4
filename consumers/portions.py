"""Portions: items in order, split so that each portion is bounded in number and bytes."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def portions(items: Iterable[T], size_of: Callable[[T], int], *, max_items: int, max_bytes: int) -> Iterator[list[T]]:
    """Yield portions of at most `max_items` items and `max_bytes` bytes; a larger item is a portion of its own."""
    portion: list[T] = []
    nbytes = 0
    for item in items:
        size = size_of(item)
        if portion and (len(portion) == max_items or nbytes + size > max_bytes):
            yield portion
            portion, nbytes = [], 0
        portion.append(item)
        nbytes += size
    if portion:
        yield portion
