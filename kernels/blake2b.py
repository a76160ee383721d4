"""BLAKE2b (RFC 7693) of short texts, for compiled functions: hashlib's own takes four times as long to be called."""

import numpy as np
import numpy.typing as npt

from kernels.compiled import compiled

Words = npt.NDArray[np.uint64]

BLOCK_BYTES = 128
_BLOCK_WORDS = BLOCK_BYTES // 8
_ROUNDS = 12

_IV = np.array(
    [
        0x6A09E667F3BCC908,
        0xBB67AE8584CAA73B,
        0x3C6EF372FE94F82B,
        0xA54FF53A5F1D36F1,
        0x510E527FADE682D1,
        0x9B05688C2B3E6C1F,
        0x1F83D9ABFB41BD6B,
        0x5BE0CD19137E2179,
    ],
    np.uint64,
)
_SIGMA = np.array(
    [
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
        [14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3],
        [11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4],
        [7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8],
        [9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13],
        [2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9],
        [12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11],
        [13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10],
        [6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5],
        [10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0],
    ],
    np.uint64,
)
_ALL_BITS = np.uint64(0xFFFFFFFFFFFFFFFF)


@compiled
def hash_words(words: Words, size: int, digest_bytes: int, state: Words) -> None:
    """Hash the first `size` bytes of `words`, zeros after them up to whole blocks, into the 8 words of `state`.

    The first `digest_bytes` of `state` equal `hashlib.blake2b(text, digest_size=digest_bytes).digest()`.
    """
    for i in range(8):
        state[i] = _IV[i]
    state[0] ^= np.uint64(0x01010000) ^ np.uint64(digest_bytes)
    blocks = max(1, (size + BLOCK_BYTES - 1) // BLOCK_BYTES)
    for block in range(blocks):
        is_last = block + 1 == blocks
        counted = np.uint64(size) if is_last else np.uint64((block + 1) * BLOCK_BYTES)
        _compress(words[block * _BLOCK_WORDS : (block + 1) * _BLOCK_WORDS], counted, is_last, state)


@compiled
def _rotate_right(word: np.uint64, bits: int) -> np.uint64:
    return word >> np.uint64(bits) | word << np.uint64(64 - bits)


@compiled
def _mix(
    a: np.uint64, b: np.uint64, c: np.uint64, d: np.uint64, one: np.uint64, other: np.uint64
) -> tuple[np.uint64, np.uint64, np.uint64, np.uint64]:
    a = a + b + one
    d = _rotate_right(d ^ a, 32)
    c = c + d
    b = _rotate_right(b ^ c, 24)
    a = a + b + other
    d = _rotate_right(d ^ a, 16)
    c = c + d
    b = _rotate_right(b ^ c, 63)
    return a, b, c, d


@compiled
def _compress(m: Words, counted: np.uint64, is_last: bool, state: Words) -> None:
    v0, v1, v2, v3 = state[0], state[1], state[2], state[3]
    v4, v5, v6, v7 = state[4], state[5], state[6], state[7]
    v8, v9, v10, v11 = _IV[0], _IV[1], _IV[2], _IV[3]
    v12, v13, v14, v15 = _IV[4] ^ counted, _IV[5], _IV[6], _IV[7]
    if is_last:
        v14 ^= _ALL_BITS
    for number in range(_ROUNDS):
        s = _SIGMA[number % len(_SIGMA)]
        v0, v4, v8, v12 = _mix(v0, v4, v8, v12, m[s[0]], m[s[1]])
        v1, v5, v9, v13 = _mix(v1, v5, v9, v13, m[s[2]], m[s[3]])
        v2, v6, v10, v14 = _mix(v2, v6, v10, v14, m[s[4]], m[s[5]])
        v3, v7, v11, v15 = _mix(v3, v7, v11, v15, m[s[6]], m[s[7]])
        v0, v5, v10, v15 = _mix(v0, v5, v10, v15, m[s[8]], m[s[9]])
        v1, v6, v11, v12 = _mix(v1, v6, v11, v12, m[s[10]], m[s[11]])
        v2, v7, v8, v13 = _mix(v2, v7, v8, v13, m[s[12]], m[s[13]])
        v3, v4, v9, v14 = _mix(v3, v4, v9, v14, m[s[14]], m[s[15]])
    for i, half in enumerate((v0 ^ v8, v1 ^ v9, v2 ^ v10, v3 ^ v11, v4 ^ v12, v5 ^ v13, v6 ^ v14, v7 ^ v15)):
        state[i] ^= half
