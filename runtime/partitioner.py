"""Where a key lies: the same partition that Kafka's Java client chooses, and aiokafka."""

from aiokafka.partitioner import murmur2


def partition_of(key: bytes, partitions: int) -> int:
    """The partition of a key: its murmur2, the sign bit masked off."""
    return int(murmur2(key) & 0x7FFFFFFF) % partitions
