"""Deduplication keys of many events at once: the same as `schemas.dedup.dedup_key`, which says what they are."""

from collections.abc import Sequence
from hashlib import blake2b
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from schemas.compiled import compiled
from schemas.dedup import KEY_BYTES
from schemas.interaction import INTERACTION_TYPES
from schemas.scan_event import SPAN_FIELDS, Columns, Integers
from schemas.scan_json import Bytes
from schemas.scan_texts import copy, copy_span, write_decimal

_EXECUTION_ID, _FEATURE_ID = list(SPAN_FIELDS).index("execution_id"), list(SPAN_FIELDS).index("feature_id")
_DECIMALS = 3 * 6
"""Bytes that three lengths take, at most: each is below 100,000."""

_BY_NAME = sorted(range(len(INTERACTION_TYPES)), key=INTERACTION_TYPES.__getitem__)
_RANKS = np.argsort(np.array(_BY_NAME))
_NAMES = np.frombuffer("".join(INTERACTION_TYPES[kind] for kind in _BY_NAME).encode(), np.uint8)
_LONGEST_NAME = max(map(len, INTERACTION_TYPES))
_NAME_ENDS = np.cumsum([0, *(len(INTERACTION_TYPES[kind]) for kind in _BY_NAME)])


def execution_keys(
    text: Bytes, columns: Columns, namespaces: Sequence[str], namespace_of: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.bool_], bytes]:
    """Which events have an execution, and the keys of these, one behind the other."""
    raw = [namespace.encode() for namespace in namespaces]
    namespace_ends = np.cumsum([0, *map(len, raw)])
    spans = columns.spans
    sizes = np.maximum(spans[:, _EXECUTION_ID, 2], 0) + spans[:, _FEATURE_ID, 2] + np.diff(namespace_ends)[namespace_of]
    types_bytes = int(columns.type_ends[-1]) * (_LONGEST_NAME + 1)
    into = np.empty(int(sizes.sum()) + len(sizes) * _DECIMALS + types_bytes, np.uint8)
    keyed = spans[:, _EXECUTION_ID, 2] > 0
    ends = np.zeros(len(sizes) + 1, np.int64)
    joined = np.frombuffer(b"".join(raw), np.uint8)
    _write_key_texts(text, columns, joined, namespace_ends, namespace_of, ends, into)
    texts, bounds = memoryview(into), ends.tolist()  # type: ignore[arg-type]
    hashed = [
        blake2b(texts[first:end], digest_size=KEY_BYTES).digest() for first, end in pairwise(bounds) if end > first
    ]
    return keyed, b"".join(hashed)


@compiled
def _write_key_texts(
    text: Bytes,
    columns: Columns,
    namespaces: Bytes,
    namespace_ends: Integers,
    namespace_of: npt.NDArray[np.int32],
    ends: Integers,
    into: Bytes,
) -> None:
    at = 0
    for line in range(len(namespace_of)):
        execution, feature = columns.spans[line, _EXECUTION_ID], columns.spans[line, _FEATURE_ID]
        if execution[2] > 0:
            namespace = namespace_ends[namespace_of[line]]
            size = namespace_ends[namespace_of[line] + 1] - namespace
            at = write_decimal(size, into, at)
            at = write_decimal(execution[2], into, at)
            at = write_decimal(feature[2], into, at)
            at = copy(namespaces, namespace, size, into, at)
            at = copy_span(text, execution, into, at)
            at = copy_span(text, feature, into, at)
            at = _write_types(columns.types[columns.type_ends[line] : columns.type_ends[line + 1]], into, at)
        ends[line + 1] = at


@compiled
def _write_types(types: npt.NDArray[np.int8], into: Bytes, at: int) -> int:
    """Write the names of a set of types, in order, with commas between; answers where they end."""
    ranks = 0
    for kind in types:
        ranks |= 1 << _RANKS[kind]
    is_first = True
    for rank in range(len(_RANKS)):
        if ranks >> rank & 1:
            if not is_first:
                into[at] = ord(",")
                at += 1
            is_first = False
            at = copy(_NAMES, _NAME_ENDS[rank], _NAME_ENDS[rank + 1] - _NAME_ENDS[rank], into, at)
    return at
