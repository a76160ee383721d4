"""Identity: how an `interaction_id` comes about, and what can be read back out of it.

An id is `int_` and the 32 hex digits of a UUIDv7 (RFC 9562, section 5.7), so ids sort by their time as plain
strings. The same 16 bytes, without the prefix, travel through claims and hashes.
"""

import hashlib
import re
import secrets
import threading
import time

PREFIX = "int_"
ID_PATTERN = r"^int_[0-9a-f]{12}7[0-9a-f]{3}[89ab][0-9a-f]{15}$"
ID_LENGTH = len(PREFIX) + 32

_MAX_MS = 2**48 - 1
_VERSION = 0x7 << 76
_VARIANT = 0b10 << 62
_RAND_A_BITS = 12
_RAND_B_BITS = 62

_is_id = re.compile(ID_PATTERN).fullmatch


def is_interaction_id(text: str) -> bool:
    """Whether `text` has the shape of an id; says nothing about whether it was ever given out."""
    return len(text) == ID_LENGTH and _is_id(text) is not None


def id_bytes(interaction_id: str) -> bytes:
    """The 16 bytes of an id."""
    return bytes.fromhex(interaction_id[len(PREFIX) :])


def id_from_bytes(raw: bytes) -> str:
    """The id of 16 bytes; the inverse of `id_bytes`."""
    return PREFIX + raw.hex()


def id_time_ms(interaction_id: str) -> int:
    """The id's time bits, in milliseconds since 1970."""
    return int(interaction_id[len(PREFIX) : len(PREFIX) + 12], 16)


def _uuid7(epoch_ms: int, rand_a: int, rand_b: int) -> str:
    value = (min(max(epoch_ms, 0), _MAX_MS) << 80) | _VERSION | (rand_a << 64) | _VARIANT | rand_b
    return f"{PREFIX}{value:032x}"


class IdMint:
    """Mints ids in ascending order within this process, also when the wall clock stands still or steps back.

    The 12 bits after the time count ids of one millisecond (RFC 9562, section 6.2, method 1); when they run
    out the mint borrows the next millisecond, so more than 4,096,000 ids a second run ahead of the clock.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = (0, 0)

    def __call__(self) -> str:
        with self._lock:
            last_ms, count = self._last
            now_ms = time.time_ns() // 1_000_000
            if now_ms > last_ms:
                self._last = now_ms, 0
            elif count + 1 < 1 << _RAND_A_BITS:
                self._last = last_ms, count + 1
            else:
                self._last = last_ms + 1, 0
            epoch_ms, rand_a = self._last
        return _uuid7(epoch_ms, rand_a, secrets.randbits(_RAND_B_BITS))


mint_id = IdMint()


def derive_foreign_id(topic: str, partition: int, offset: int, append_ms: int) -> str:
    """The id of a record that came without one: the same on every redelivery.

    The append time is part of it, so offset 0 of a recreated topic is another event than offset 0 of the old.
    """
    return _derive(append_ms, topic.encode(), b"%d %d %d" % (partition, offset, append_ms))


def derive_import_id(namespace: str, source: str, row: bytes, nth: int, event_ms: int) -> str:
    """The id of an imported row: the same whenever the same file is imported.

    `nth` counts identical rows of one source from 0, so a file that repeats a row keeps both.
    """
    return _derive(event_ms, namespace.encode(), source.encode(), row, b"%d" % nth)


def derive_replay_id(topic: str, partition: int, offset: int, append_ms: int) -> str:
    """The id of a rejected record when it is put on the topic again: the same however often that is done.

    Another one than the rejected event's own, so that both can be asked for.
    """
    return _derive(append_ms, b"replay", topic.encode(), b"%d %d %d" % (partition, offset, append_ms))


def _derive(epoch_ms: int, *parts: bytes) -> str:
    hashed = hashlib.blake2b(digest_size=16, person=b"tally.id")
    for part in parts:
        hashed.update(len(part).to_bytes(4, "big"))
        hashed.update(part)
    number = int.from_bytes(hashed.digest(), "big")
    return _uuid7(epoch_ms, number >> (128 - _RAND_A_BITS), number & ((1 << _RAND_B_BITS) - 1))
