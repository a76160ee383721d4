"""Partition of a record, from its key."""

import struct
from functools import lru_cache

KEYS_REMEMBERED = 65_536
_SEED, _FACTOR, _LOW_32, _WITHOUT_SIGN = 0x9747B28C, 0x5BD1E995, 0xFFFFFFFF, 0x7FFFFFFF
_WORD_BYTES = 4


@lru_cache(KEYS_REMEMBERED)
def key_hash(key: bytes) -> int:
    """Hash a key from 0 to 2^31 - 1, as Kafka's Java client does: its murmur2 without the sign bit.

    https://github.com/apache/kafka/blob/trunk/clients/src/main/java/org/apache/kafka/common/utils/Utils.java
    """
    size = len(key)
    whole, rest = divmod(size, _WORD_BYTES)
    hashed = _SEED ^ size
    for word in struct.unpack_from(f"<{whole}I", key):
        mixed = word * _FACTOR & _LOW_32
        hashed = (hashed * _FACTOR & _LOW_32) ^ ((mixed ^ mixed >> 24) * _FACTOR & _LOW_32)
    if rest:
        hashed = (hashed ^ int.from_bytes(key[-rest:], "little")) * _FACTOR & _LOW_32
    hashed = (hashed ^ hashed >> 13) * _FACTOR & _LOW_32
    return (hashed ^ hashed >> 15) & _WITHOUT_SIGN


def partition_of(key: bytes, partitions: int) -> int:
    """Return a key's partition: its hash modulo `partitions`."""
    return key_hash(key) % partitions
