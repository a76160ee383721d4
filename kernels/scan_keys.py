"""Deduplication keys of many events at once, equal to those of `schemas.dedup.dedup_key`."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kernels.blake2b import BLOCK_BYTES, Words, hash_words
from kernels.compiled import compiled
from kernels.scan_event import SPAN_AT, Columns
from kernels.scan_json import Bytes
from kernels.scan_texts import Texts, copy, copy_span, copy_text, join_texts, write_decimal
from kernels.wide import WIDE
from schemas.dedup import KEY_BYTES
from schemas.interaction import INTERACTION_TYPES

_EXECUTION_ID, _FEATURE_ID = SPAN_AT["execution_id"], SPAN_AT["feature_id"]
_DECIMALS = 3 * 6
"""Upper bound of the bytes of three sizes, each below 100,000 and followed by a space."""

_BY_NAME = sorted(range(len(INTERACTION_TYPES)), key=INTERACTION_TYPES.__getitem__)
_RANKS = np.argsort(np.array(_BY_NAME))
_NAMES = np.frombuffer("".join(INTERACTION_TYPES[kind] for kind in _BY_NAME).encode(), np.uint8)
_LONGEST_TYPES = len(",".join(INTERACTION_TYPES))
_NAME_ENDS = np.cumsum([0, *(len(INTERACTION_TYPES[kind]) for kind in _BY_NAME)])


def hash_dedup_keys(
    text: Bytes, columns: Columns, namespaces: Sequence[str], namespace_of: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.bool_], Bytes]:
    """Hash the deduplication keys of events with an execution; return a flag per row, and keys of KEY_BYTES per row.

    `text` and `columns` are those of a scan. `namespace_of` holds, by row, an index of `namespaces`. Keys of rows
    without an execution are zeros, and their flags false.
    """
    names, spans = join_texts([namespace.encode() for namespace in namespaces]), columns.spans
    sizes = np.maximum(spans[:, _EXECUTION_ID, 2], 0) + spans[:, _FEATURE_ID, 2] + np.diff(names.ends)[namespace_of]
    longest = int(sizes.max(initial=0)) + _DECIMALS + _LONGEST_TYPES + WIDE
    scratch = np.zeros((longest // BLOCK_BYTES + 1) * BLOCK_BYTES, np.uint8)
    keys = np.zeros((len(sizes), KEY_BYTES // 8), np.uint64)
    _hash_keys(text, columns, names, namespace_of, (scratch, scratch.view(np.uint64)), np.empty(8, np.uint64), keys)
    return spans[:, _EXECUTION_ID, 2] > 0, keys.view(np.uint8)


@compiled
def _hash_keys(
    text: Bytes,
    columns: Columns,
    namespaces: Texts,
    namespace_of: npt.NDArray[np.int32],
    scratch: tuple[Bytes, Words],
    state: Words,
    keys: Words,
) -> None:
    """Write the key of each row. `scratch` is one buffer as bytes and as words, WIDE bytes larger than any text."""
    into, words = scratch
    for row in range(len(keys)):
        execution, feature = columns.spans[row, _EXECUTION_ID], columns.spans[row, _FEATURE_ID]
        if execution[2] <= 0:
            continue
        namespace = namespace_of[row]
        at = write_decimal(namespaces.ends[namespace + 1] - namespaces.ends[namespace], into, 0)
        at = write_decimal(execution[2], into, at)
        at = write_decimal(feature[2], into, at)
        at = copy_text(namespaces, namespace, into, at)
        at = copy_span(text, execution, into, at)
        at = copy_span(text, feature, into, at)
        at = _write_types(columns.types[columns.type_ends[row] : columns.type_ends[row + 1]], into, at)
        for padding in range(at, (at // BLOCK_BYTES + 1) * BLOCK_BYTES):
            into[padding] = 0
        hash_words(words, at, KEY_BYTES, state)
        keys[row, 0], keys[row, 1] = state[0], state[1]


@compiled
def _write_types(types: npt.NDArray[np.int8], into: Bytes, at: int) -> int:
    """Write the names of a set of types, in order, with commas between; return their end."""
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
