"""The compiled BLAKE2b equals hashlib's, also for texts of several blocks, whatever bytes follow them."""

import hashlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kernels.blake2b import BLOCK_BYTES, hash_words

EDGES = st.sampled_from([0, 1, 127, 128, 129, 255, 256, 257])


@given(st.data(), EDGES | st.integers(0, 700), st.sampled_from([16, 64]))
def test_digests_equal_those_of_hashlib(data: st.DataObject, size: int, digest_bytes: int) -> None:
    text = data.draw(st.binary(min_size=size, max_size=size))
    padded = text.ljust((size // BLOCK_BYTES + 1) * BLOCK_BYTES, b"\0") + b"something else".ljust(BLOCK_BYTES)
    state = np.empty(8, np.uint64)
    hash_words(np.frombuffer(padded, np.uint64).copy(), size, digest_bytes, state)
    assert state.tobytes()[:digest_bytes] == hashlib.blake2b(text, digest_size=digest_bytes).digest()
