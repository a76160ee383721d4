"""Partition hashes of many events at once, of the keys that `schemas.wire.partition_key` makes one by one."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kernels.compiled import compiled
from kernels.murmur2 import Words, murmur2
from kernels.scan_event import SPAN_AT, Columns, Integers
from kernels.scan_json import Bytes
from kernels.scan_texts import copy, copy_span
from kernels.wide import WIDE

_GROUPINGS = np.array([SPAN_AT[name] for name in ("execution_id", "session_id", "user_id", "feature_id")])
"""Candidate fields of a key: the first that is not empty. The idempotency key comes second among them."""
_WITHOUT_SIGN = 0x7FFFFFFF


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
    prefixes = [f"{namespace}:".encode() for namespace in namespaces]
    tokens = [(key or "").encode() for key in idempotency_keys]
    prefix_ends, token_ends = np.cumsum([0, *map(len, prefixes)]), np.cumsum([0, *map(len, tokens)])
    longest = int(columns.spans[:, _GROUPINGS, 2].max(initial=0))
    size = max(map(len, prefixes), default=0) + max(longest, max(map(len, tokens), default=0)) + WIDE
    scratch = np.zeros((size // 4 + 2) * 4, np.uint8)
    hashes = np.empty(len(head_of), np.int64)
    _hash_all(
        text,
        columns.spans,
        np.frombuffer(b"".join(prefixes), np.uint8),
        prefix_ends,
        np.frombuffer(b"".join(tokens), np.uint8),
        token_ends,
        head_of,
        scratch,
        scratch.view(np.uint32),
        hashes,
    )
    return hashes


@compiled
def _hash_all(
    text: Bytes,
    spans: Integers,
    prefixes: Bytes,
    prefix_ends: Integers,
    tokens: Bytes,
    token_ends: Integers,
    head_of: npt.NDArray[np.int32],
    scratch: Bytes,
    words: Words,
    hashes: Integers,
) -> None:
    """Write the hash of each row. `words` is a view of `scratch`, which has WIDE bytes more than the longest key."""
    for row in range(len(hashes)):
        head = head_of[row]
        first = prefix_ends[head]
        at = copy(prefixes, first, prefix_ends[head + 1] - first, scratch, 0)
        token = token_ends[head]
        token_size = token_ends[head + 1] - token
        if token_size > 0 and spans[row, _GROUPINGS[0], 2] <= 0:
            at = copy(tokens, token, token_size, scratch, at)
        else:
            for field in _GROUPINGS:
                if spans[row, field, 2] > 0:
                    at = copy_span(text, spans[row, field], scratch, at)
                    break
        hashes[row] = murmur2(words, at) & _WITHOUT_SIGN
