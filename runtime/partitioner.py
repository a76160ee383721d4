"""Partitioner of keys, identical to that of Kafka's Java client and aiokafka."""

from aiokafka.partitioner import murmur2


def partition_of(key: bytes, partitions: int) -> int:
    """Return the partition of a key: its murmur2 without the sign bit, modulo `partitions`."""
    return int(murmur2(key) & 0x7FFFFFFF) % partitions
