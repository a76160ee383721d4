"""Murmur2 of short texts, for compiled functions: the hash by which Kafka's own clients choose a partition."""

import numpy as np
import numpy.typing as npt

from kernels.compiled import compiled

Words = npt.NDArray[np.uint32]

_SEED = np.uint64(0x9747B28C)
_FACTOR = np.uint64(0x5BD1E995)
_LOW_32 = np.uint64(0xFFFFFFFF)


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
