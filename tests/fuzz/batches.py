"""Kafka record batches: well-formed ones in every codec, and all kinds of damage to them."""

import struct
from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple

import cramjam

from runtime.whole_batches import WholeBatch
from tests.hostile.raw_producer import RawRecord, encode_batch, encode_records, varint

_LOG_APPEND_TIME = 0x08
_FIELDS = {"attributes": (21, ">h"), "last_delta": (23, ">i"), "first_ms": (27, ">q"), "highest_ms": (35, ">q"),
           "count": (57, ">i"), "base": (0, ">q")}  # fmt: skip
"""Numbers of a batch's header that are read, and where they are."""
_NUMBERS = (-(2**31), -1, 0, 1, 2, 7, 100, 2**16, 2**31 - 1)
_SIZES = (-(2**63), -(2**31), -2, -1, 0, 1, 63, 64, 2**31 - 1, 2**31, 2**62, 2**63 - 1)
_CODECS: dict[int, Callable[[bytes], Any]] = {
    1: cramjam.gzip.compress,
    2: cramjam.snappy.compress_raw,
    3: cramjam.lz4.compress,
    4: cramjam.zstd.compress,
}


class GeneratedBatch(NamedTuple):
    """A batch, and its records by offset if nothing about it was damaged."""

    batch: WholeBatch
    records: list[RawRecord] | None


def _encoded(record: RawRecord) -> bytes:
    return encode_records([record])


def _body(record: RawRecord) -> bytes:
    """A record without its size."""
    raw = _encoded(record._replace(size=0))
    return raw[len(varint(0)) :]


class Batches:
    """An endless source of batches, which depends on its random numbers only."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._base = 0

    def batch(self) -> GeneratedBatch:
        """The next batch; its offsets follow those of the previous one."""
        random = self._random
        records = [self._record() for _ in range(random.choice((1, 1, 2, 5, 30)))]
        is_damaged = random.random() < 0.7
        odd = random.choice((0, 0.1, 1)) if is_damaged else 0
        payload = b"".join(
            (self._odd if random.random() < odd else _encoded)(each._replace(delta=place))
            for place, each in enumerate(records)
        )
        if is_damaged and random.random() < 0.4:
            payload = self._damaged(payload)
        codec = random.choice((0, 0, 0, 1, 2, 3, 4))
        if codec:
            payload = bytes(_CODECS[codec](payload))
            if is_damaged and random.random() < 0.2:
                payload = self._damaged(payload)
        base = self._base
        stamp = random.choice((0, _LOG_APPEND_TIME))
        raw = encode_batch(payload, len(records), base=base, attributes=codec | stamp, first_ms=10, highest_ms=20)
        if is_damaged and random.random() < 0.4:
            raw = self._with_odd_header(raw)
        self._base += len(records)
        wanted = base if random.random() < 0.8 else base + random.randrange(len(records))
        batch = WholeBatch(memoryview(raw), wanted, base + len(records))
        return GeneratedBatch(batch, None if is_damaged else records[wanted - base :])

    def _record(self) -> RawRecord:
        random = self._random

        def some(most: int) -> bytes | None:
            return None if random.random() < 0.1 else random.randbytes(random.randrange(most))

        names = (b"tally-namespace", b"", b"a", b"\xff", random.randbytes(3))
        headers = [(random.choice(names), some(20)) for _ in range(random.choice((0, 0, 1, 3)))]
        return RawRecord(some(300), some(30), headers, ahead_ms=random.choice((0, 1, 5)))

    def _odd(self, record: RawRecord) -> bytes:
        """A record that states one wrong number: one of its own, or that its key or its value ends elsewhere."""
        random = self._random
        name = random.choice(("delta", "ahead_ms", "header_count", "size", "key", "value"))
        if name in ("key", "value"):
            part = record.key if name == "key" else record.value
            wrong = len(part or b"") + random.choice((random.randint(-40, 40), *_SIZES))
            empty = record._replace(value=b"", headers=(), key=record.key if name == "value" else b"")
            begin = len(_body(empty)) - (2 if name == "value" else 3)  # without the sizes that are 0, and the count
            body = _body(record)
            stated = len(varint(-1 if part is None else len(part)))
            body = body[:begin] + varint(wrong) + body[begin + stated :]
            return varint(len(body)) + body
        right = len(_body(record)) if name == "size" else 0
        odd: dict[str, Any] = {name: random.choice((right + random.randint(-40, 40), *_NUMBERS, *_SIZES))}
        return _encoded(record._replace(**odd))

    def _damaged(self, payload: bytes) -> bytes:
        random = self._random
        for _ in range(random.choice((1, 1, 2, 5))):
            at = random.randrange(len(payload) + 1)
            kind = random.randrange(5)
            if kind == 0:
                payload = payload[:at]
            elif kind == 1:
                payload = payload[:at] + varint(random.choice(_SIZES)) + payload[at + 1 :]
            elif kind == 2:
                payload = payload[:at] + payload[at + random.randrange(1, 9) :]
            elif kind == 3:
                payload = payload[:at] + b"\xff" * random.randrange(1, 12) + payload[at:]
            else:
                payload = payload[:at] + bytes([random.randrange(256)]) + payload[at + 1 :]
        return payload

    def _with_odd_header(self, raw: bytes) -> bytes:
        random, changed = self._random, bytearray(raw)
        for name in random.sample(list(_FIELDS), random.choice((1, 1, 2))):
            at, form = _FIELDS[name]
            bits = 8 * struct.calcsize(form)
            lowest, highest = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
            if name == "base":  # the broker's own: it counts up from 0
                lowest, highest = 0, 2**62
            number = random.choice((*_NUMBERS, lowest, highest, random.getrandbits(bits - 1)))
            struct.pack_into(form, changed, at, min(max(number, lowest), highest))
        return bytes(changed)
