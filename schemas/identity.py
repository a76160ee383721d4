"""Interaction ids: minting, derivation, and reading of their time.

An id is `int_` and the 32 hex digits of a UUIDv7 (RFC 9562, section 5.7), so ids sort by time as plain strings. Claims
and hashes hold its 16 bytes without the prefix.
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
_RAND_B_MASK = (1 << _RAND_B_BITS) - 1

_IDS_PER_MS = 1 << _RAND_A_BITS
_VERSIONS_AND_COUNTS = tuple(f"7{count:03x}" for count in range(_IDS_PER_MS))
_RANDOM_DIGITS = 16
"""Hex digits of an id after the count, of which the first holds the variant."""
_VARIANT_DIGITS = str.maketrans("0123456789abcdef", "89ab" * 4)

_is_id = re.compile(ID_PATTERN).fullmatch


def is_interaction_id(text: str) -> bool:
    """Return whether `text` has the form of an id, whether or not an event has it."""
    return len(text) == ID_LENGTH and _is_id(text) is not None


def id_bytes(interaction_id: str) -> bytes:
    """Return the 16 bytes of an id."""
    return bytes.fromhex(interaction_id[len(PREFIX) :])


def id_from_bytes(raw: bytes) -> str:
    """Return the id of 16 bytes; the inverse of `id_bytes`."""
    return PREFIX + raw.hex()


def id_time_ms(interaction_id: str) -> int:
    """Return the time of an id in milliseconds since 1970."""
    return int(interaction_id[len(PREFIX) : len(PREFIX) + 12], 16)


def _uuid7(epoch_ms: int, rand_a: int, rand_b: int) -> str:
    value = (min(max(epoch_ms, 0), _MAX_MS) << 80) | _VERSION | (rand_a << 64) | _VARIANT | rand_b
    return f"{PREFIX}{value:032x}"


class IdMint:
    """Source of ids that ascend within this process, also when the wall clock stands still or steps back.

    The 12 bits after the time count the ids of a millisecond (RFC 9562, section 6.2, method 1). When they are used up,
    the next millisecond is used early: at more than 4,096,000 ids a second, ids are ahead of the clock.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next = 0
        """Lowest time and count of the next id: the time in ms, and the count as its last 12 bits."""

    def __call__(self) -> str:
        """Mint one id."""
        return self.many(1)[0]

    def many(self, count: int) -> list[str]:
        """Mint ids in ascending order, at an eighth of the cost of one at a time."""
        digits = secrets.token_hex(_RANDOM_DIGITS // 2 * count)
        variants = digits[::_RANDOM_DIGITS].translate(_VARIANT_DIGITS)
        with self._lock:
            first = max(min(time.time_ns() // 1_000_000, _MAX_MS) << _RAND_A_BITS, self._next)
            self._next = first + count
        ids = list[str]()
        while (minted := len(ids)) < count:
            epoch_ms, counted = divmod(first + minted, _IDS_PER_MS)
            begin = f"{PREFIX}{epoch_ms:012x}"
            starts = range(minted * _RANDOM_DIGITS + 1, count * _RANDOM_DIGITS, _RANDOM_DIGITS)
            ids += [
                begin + version_and_count + variant + digits[start : start + _RANDOM_DIGITS - 1]
                for version_and_count, variant, start in zip(
                    _VERSIONS_AND_COUNTS[counted : counted + count - minted], variants[minted:], starts, strict=False
                )
            ]
        return ids


mint_id = IdMint()


def derive_foreign_id(topic: str, partition: int, offset: int, append_ms: int) -> str:
    """Derive the id of a record without one. Every delivery of the record gives the same id.

    The append time is part of the input: offset 0 of a recreated topic is another event than offset 0 of the old one.
    """
    return _derive(append_ms, topic.encode(), b"%d %d %d" % (partition, offset, append_ms))


def derive_import_id(namespace: str, source: str, row: bytes, nth: int, event_ms: int) -> str:
    """Derive the id of an imported row. Every import of the same file gives the same id.

    `nth` counts identical rows of one source from 0, so a file that repeats a row keeps both.
    """
    return _derive(event_ms, namespace.encode(), source.encode(), row, b"%d" % nth)


def derive_replay_id(topic: str, partition: int, offset: int, append_ms: int) -> str:
    """Derive the id of a replayed dead letter. Every replay of the same record gives the same id.

    It differs from the id of the rejected event, so both can be looked up.
    """
    return _derive(append_ms, b"replay", topic.encode(), b"%d %d %d" % (partition, offset, append_ms))


def _derive(epoch_ms: int, *parts: bytes) -> str:
    hashed = hashlib.blake2b(digest_size=16, person=b"tally.id")
    for part in parts:
        hashed.update(len(part).to_bytes(4, "big"))
        hashed.update(part)
    number = int.from_bytes(hashed.digest(), "big")
    return _uuid7(epoch_ms, number >> (128 - _RAND_A_BITS), number & _RAND_B_MASK)
