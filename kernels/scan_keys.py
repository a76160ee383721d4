"""Keys of many events at once: deduplication keys, and hashes of partition keys.

They equal those of `schemas.dedup.dedup_key` and of `schemas.wire.partition_key`. Partition keys are hashed by murmur2,
by which Kafka's own clients choose a partition.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kernels.blake2b import BLOCK_BYTES, Words, hash_words
from kernels.compiled import compiled
from kernels.scan_event import SPAN_AT, Columns, Integers
from kernels.scan_json import Bytes
from kernels.scan_texts import Texts, copy, copy_span, copy_text, join_texts, write_decimal
from kernels.wide import WIDE
from schemas.dedup import KEY_BYTES
from schemas.interaction import INTERACTION_TYPES

Words32 = npt.NDArray[np.uint32]

_EXECUTION_ID, _FEATURE_ID = SPAN_AT["execution_id"], SPAN_AT["feature_id"]
_DECIMALS = 3 * 6
"""Upper bound of the bytes of three sizes, each below 100,000 and followed by a space."""

_BY_NAME = sorted(range(len(INTERACTION_TYPES)), key=INTERACTION_TYPES.__getitem__)
_RANKS = np.argsort(np.array(_BY_NAME))
_NAMES = np.frombuffer("".join(INTERACTION_TYPES[kind] for kind in _BY_NAME).encode(), np.uint8)
_LONGEST_TYPES = len(",".join(INTERACTION_TYPES))
_NAME_ENDS = np.cumsum([0, *(len(INTERACTION_TYPES[kind]) for kind in _BY_NAME)])

_SEED = np.uint64(0x9747B28C)
_FACTOR = np.uint64(0x5BD1E995)
_LOW_32 = np.uint64(0xFFFFFFFF)
_GROUPINGS = np.array([SPAN_AT[name] for name in ("execution_id", "session_id", "user_id", "feature_id")])
"""Candidate fields of a key: the first that is not empty. The idempotency key comes second among them."""
_WITHOUT_SIGN = 0x7FFFFFFF


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
    _write_keys(text, columns, names, namespace_of, (scratch, scratch.view(np.uint64)), np.empty(8, np.uint64), keys)
    return spans[:, _EXECUTION_ID, 2] > 0, keys.view(np.uint8)


@compiled
def _write_keys(
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


def hash_partition_keys(
    text: Bytes,
    columns: Columns,
    namespaces: Sequence[str],
    idempotency_keys: Sequence[str | None],
    head_of: npt.NDArray[np.int32],
) -> Integers:
    """Hash the partition key of each row; return int64 from 0 to 2^31 - 1. Modulo the partition count: the partition.

    `text` and `columns` are those of a scan. `head_of` holds, by row, an index of `namespaces` and `idempotency_keys`.
    """
    prefixes = join_texts([f"{namespace}:".encode() for namespace in namespaces])
    tokens = join_texts([(key or "").encode() for key in idempotency_keys])
    longest_prefix, longest_token = (int(np.diff(texts.ends).max(initial=0)) for texts in (prefixes, tokens))
    longest = int(columns.spans[:, _GROUPINGS, 2].max(initial=0))
    scratch = np.zeros(((longest_prefix + max(longest, longest_token) + WIDE) // 4 + 2) * 4, np.uint8)
    hashes = np.empty(len(head_of), np.int64)
    _write_hashes(text, columns.spans, prefixes, tokens, head_of, (scratch, scratch.view(np.uint32)), hashes)
    return hashes


@compiled
def _write_hashes(
    text: Bytes,
    spans: Integers,
    prefixes: Texts,
    tokens: Texts,
    head_of: npt.NDArray[np.int32],
    scratch: tuple[Bytes, Words32],
    hashes: Integers,
) -> None:
    """Write the hash of each row. `scratch` is one buffer as bytes and as words, WIDE bytes larger than any key."""
    into, words = scratch
    for row in range(len(hashes)):
        head = head_of[row]
        at = copy_text(prefixes, head, into, 0)
        if tokens.ends[head + 1] > tokens.ends[head] and spans[row, _GROUPINGS[0], 2] <= 0:
            at = copy_text(tokens, head, into, at)
        else:
            for field in _GROUPINGS:
                if spans[row, field, 2] > 0:
                    at = copy_span(text, spans[row, field], into, at)
                    break
        hashes[row] = murmur2(words, at) & _WITHOUT_SIGN


@compiled
def murmur2(words: Words32, size: int) -> int:
    """Hash the first `size` bytes of `words`, as `org.apache.kafka.common.utils.Utils.murmur2` does, unsigned.

    A last word that is only partly in the text is read whole.
    """
    hashed = _SEED ^ np.uint64(size)
    whole, rest = size // 4, size % 4
    for i in range(whole):
        word = np.uint64(words[i]) * _FACTOR & _LOW_32
        word = (word ^ word >> np.uint64(24)) * _FACTOR & _LOW_32
        hashed = hashed * _FACTOR & _LOW_32 ^ word
    if rest:
        counted = (np.uint64(1) << np.uint64(8 * rest)) - np.uint64(1)
        hashed = (hashed ^ np.uint64(words[whole]) & counted) * _FACTOR & _LOW_32
    hashed = (hashed ^ hashed >> np.uint64(13)) * _FACTOR & _LOW_32
    return int(hashed ^ hashed >> np.uint64(15))
