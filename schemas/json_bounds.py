"""How deep JSON may nest, measured without recursion: a hostile value must not meet a stack limit first."""

import re
from typing import Any

MAX_DEPTH = 32
"""Containers inside one another, the interaction's own object counted as 1."""


# Possessive, and an open string runs to the end: a hostile text is still read once, not once from each quote.
_STRING = re.compile(r'"(?:[^"\\]++|\\.)*+(?:"|\Z)', re.DOTALL)
_BRACKET = re.compile(r"[\[\]{}]")
_SMALL_CHARACTERS = 4_096


def depth_of_text(text: str) -> int:
    """Return the deepest nesting of brackets outside strings. Exact for well-formed JSON, a guess for the rest."""
    plain = _STRING.sub("", text)
    if len(plain) > _SMALL_CHARACTERS:
        return _depth_of_brackets(plain.encode(errors="replace"))
    deepest = depth = 0
    for bracket in _BRACKET.findall(plain):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _depth_of_brackets(plain: bytes) -> int:
    """Do the same with arrays: a loop would take a microsecond for every ten brackets."""
    import numpy as np  # noqa: PLC0415  (an install that only produces events has no numpy, and validates no text)

    steps = np.zeros(256, np.int8)
    steps[list(b"[{")], steps[list(b"]}")] = 1, -1
    return int(np.cumsum(steps[np.frombuffer(plain, np.uint8)], dtype=np.int32).max(initial=0))


def depth_of(value: Any, max_nodes: int) -> int:
    """How deep a Python value nests lists and dicts; stops counting one level past the limit.

    Raises ValueError past `max_nodes` values: a few lists that contain one another many times over would take
    for ever to walk.
    """
    level, depth, nodes = [value], 0, 1
    while depth <= MAX_DEPTH:
        level = [item for item in level if isinstance(item, dict | list | tuple)]
        if not level:
            break
        nodes += sum(map(len, level))
        if nodes > max_nodes:
            raise ValueError(f"holds more than {max_nodes} values")
        depth += 1
        level = [child for item in level for child in (item.values() if isinstance(item, dict) else item)]
    return depth
