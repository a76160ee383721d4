"""Partition hashes of many events at once, of the keys that `schemas.wire.partition_key` makes one by one.

The hash is murmur2, by which Kafka's own clients choose a partition.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kernels.compiled import compiled
from kernels.scan_event import SPAN_AT, Columns, Integers
from kernels.scan_json import Bytes
from kernels.scan_texts import Texts, copy_span, copy_text, join_texts
from kernels.wide import WIDE

Words = npt.NDArray[np.uint32]

_SEED = np.uint64(0x9747B28C)
_FACTOR = np.uint64(0x5BD1E995)
_LOW_32 = np.uint64(0xFFFFFFFF)
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
    prefixes = join_texts([f"{namespace}:".encode() for namespace in namespaces])
    tokens = join_texts([(key or "").encode() for key in idempotency_keys])
    longest_prefix, longest_token = (int(np.diff(texts.ends).max(initial=0)) for texts in (prefixes, tokens))
    longest = int(columns.spans[:, _GROUPINGS, 2].max(initial=0))
    scratch = np.zeros(((longest_prefix + max(longest, longest_token) + WIDE) // 4 + 2) * 4, np.uint8)
    hashes = np.empty(len(head_of), np.int64)
    _hash_all(text, columns.spans, prefixes, tokens, head_of, (scratch, scratch.view(np.uint32)), hashes)
    return hashes


@compiled
def _hash_all(
    text: Bytes,
    spans: Integers,
    prefixes: Texts,
    tokens: Texts,
    head_of: npt.NDArray[np.int32],
    scratch: tuple[Bytes, Words],
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
def murmur2(words: Words, size: int) -> int:
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
