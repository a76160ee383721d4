"""Seeded record batches that no client makes: contradicting offsets, unreadable payloads, too many bytes or headers."""

import gzip
from collections.abc import Sequence
from random import Random
from typing import NamedTuple

import cramjam
from aiokafka.codec import lz4_encode

from consumers.records import MOST_HEADERS
from runtime.sizes import MIB
from tests.chaos.traffic import PARTITIONS, Traffic
from tests.hostile.raw_producer import BatchRefused, RawProducer, RawRecord, batch_of, encode_batch, encode_records

UNCOMPRESSED_BYTES = MIB
"""Bound of a batch in the workers of a run: small, so that a larger batch is made fast."""
_GZIP, _LZ4, _ZSTD = 1, 3, 4


class HostileBatch(NamedTuple):
    """A batch to put on a partition as it is."""

    partition: int
    raw: bytes
    reasons: Sequence[str | None]
    """By record: why it must be rejected, or None when its own content decides."""


class HostileTraffic:
    """An endless source of hostile batches, around events as `Traffic` makes them."""

    def __init__(self, random: Random, traffic: Traffic) -> None:
        self._random, self._traffic = random, traffic

    def batch(self) -> HostileBatch:
        """The next batch."""
        makers = (self._wrong_offsets, self._unreadable, self._too_large, self._byte_headers, self._many_headers)
        raw, reasons = self._random.choice(makers)()
        return HostileBatch(self._random.randrange(PARTITIONS), raw, reasons)

    def _records(self, least: int = 1) -> list[RawRecord]:
        records = (self._traffic.record() for _ in range(self._random.randrange(least, 12)))
        return [
            RawRecord(each.value, each.key, [(name.encode(), value) for name, value in each.headers])
            for each in records
        ]

    def _wrong_offsets(self) -> tuple[bytes, list[str | None]]:
        """Gaps, and offsets that repeat or lie outside of the batch's range."""
        records = self._records(2)
        deltas = list(range(len(records)))
        for _ in range(self._random.randrange(1, 4)):
            deltas[self._random.randrange(len(deltas))] = self._random.choice(
                (-1, -(2**31), 0, len(records), len(records) + 40, 2**31 - 1)
            )
        reasons = [None if delta == place else "bad_record" for place, delta in enumerate(deltas)]
        return batch_of([each._replace(delta=delta) for each, delta in zip(records, deltas, strict=True)]), reasons

    def _unreadable(self) -> tuple[bytes, list[str | None]]:
        """Bytes after the compressed records."""
        records = self._records()
        codec, compress = self._random.choice(((_GZIP, gzip.compress), (_LZ4, lz4_encode)))
        payload = bytes(compress(encode_records(records))) + self._random.randbytes(5)
        return encode_batch(payload, len(records), attributes=codec), ["bad_batch"] * len(records)

    def _too_large(self) -> tuple[bytes, list[str | None]]:
        """A few hundred bytes that are more than a worker accepts, uncompressed."""
        records = [*self._records(), RawRecord(b"x" * UNCOMPRESSED_BYTES)]
        payload = bytes(cramjam.zstd.compress(encode_records(records)))
        return encode_batch(payload, len(records), attributes=_ZSTD), ["batch_too_large"] * len(records)

    def _byte_headers(self) -> tuple[bytes, list[str | None]]:
        """Header names that are not text: the values decide."""
        records = self._records()
        names = [self._random.randbytes(self._random.randrange(1, 9)) for _ in records]
        marked = [
            each._replace(headers=[*each.headers, (b"\xff" + name, name)])
            for each, name in zip(records, names, strict=True)
        ]
        return batch_of(marked), [None] * len(records)

    def _many_headers(self) -> tuple[bytes, list[str | None]]:
        """Return records of which one has more headers than are read."""
        records = self._records()
        at = self._random.randrange(len(records))
        records[at] = records[at]._replace(headers=[(b"n", None)] * (MOST_HEADERS + 1))
        return batch_of(records), ["bad_record" if place == at else None for place in range(len(records))]


async def send_hostile(address: str, topic: str, batch: HostileBatch) -> dict[tuple[int, int], str]:
    """Put a batch on the topic; returns by place the reasons why its records must be rejected.

    A batch that a restarting broker does not acknowledge is not sent again, and nothing is expected of it. Raises
    Refused when the broker takes no such batch at all.
    """
    try:
        async with RawProducer(address) as producer:
            first = await producer.send(topic, batch.partition, batch.raw)
    except (OSError, EOFError):
        return {}
    except BatchRefused as refused:
        if not refused.error.retriable:
            raise
        return {}
    return {(batch.partition, offset): reason for offset, reason in enumerate(batch.reasons, first) if reason}
