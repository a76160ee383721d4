"""Dead letter: the bytes and headers of a rejected record, with the reason in further headers.

Its origin (topic, partition, offset) is its identity: after a crash the same letter may be on the topic twice.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple, Self

from schemas.event_time import END_MS

PREFIX = "tally-letter-"
REASON, FIELD, MESSAGE = f"{PREFIX}reason", f"{PREFIX}field", f"{PREFIX}message"
NAMESPACE, INTERACTION_ID = f"{PREFIX}namespace", f"{PREFIX}interaction-id"
TOPIC, PARTITION, OFFSET = f"{PREFIX}topic", f"{PREFIX}partition", f"{PREFIX}offset"
APPEND_MS, NULL_KEY = f"{PREFIX}append-ms", f"{PREFIX}null-key"

RAW_NAME = f"{PREFIX}raw-name-"
"""Prefix of a header whose name in the record is not UTF-8; the bytes of the name follow as hexadecimal digits."""
MOST_LETTER_HEADERS = 16
MOST_LETTER_BYTES = 64 * 1024
"""Largest number of bytes that a letter adds to its record."""

DeadLetterHeaders = Sequence[tuple[str, bytes | None]]


def _number(text: str, end: int) -> int:
    """Read digits as a number below `end`. Raises ValueError; `int` takes signs, blanks and other scripts' digits."""
    if text.isascii() and text.isdigit() and len(text) <= len(str(end)) and int(text) < end:
        return int(text)
    raise ValueError(f"{text[:40]!r} is no number below {end}")


class Origin(NamedTuple):
    """Place of a record in the log. As text: topic/partition/offset."""

    topic: str
    partition: int
    offset: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read topic/partition/offset. Raises ValueError."""
        topic, partition, offset = text.rsplit("/", 2)
        return cls(topic, _number(partition, 2**31), _number(offset, 2**63))

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"


class Letter(NamedTuple):
    """Contents of a dead letter. `key`, `value` and `headers` are those of the rejected record."""

    origin: Origin
    append_ms: int
    """Append time of the rejected record, in ms since 1970."""
    reason: str
    field: str
    message: str
    namespace: str
    """Empty for a record that could not be attributed to one."""
    interaction_id: str
    key: bytes | None
    value: bytes | None
    headers: DeadLetterHeaders


def write_name(name: str) -> str:
    """Return the name that a record's header has in its letter: clients cannot write a name that is not UTF-8."""
    raw = name.encode(errors="surrogateescape")
    is_plain = raw.decode(errors="replace") == name and not name.startswith(RAW_NAME)
    return name if is_plain else f"{RAW_NAME}{raw.hex()}"


def read_name(name: str) -> str:
    """Return the name that a header of a letter has in the record; bytes that are not UTF-8 become surrogates."""
    with suppress(ValueError):
        if name.startswith(RAW_NAME):
            return bytes.fromhex(name.removeprefix(RAW_NAME)).decode(errors="surrogateescape")
    return name


def write_headers(letter: Letter) -> list[tuple[str, bytes | None]]:
    """Return the headers of a letter: those of the record, then the origin and the reason."""
    headers = [(write_name(name), raw) for name, raw in letter.headers]
    headers += [
        (REASON, letter.reason.encode()),
        (FIELD, letter.field.encode(errors="replace")),
        (MESSAGE, letter.message.encode(errors="replace")),
        (NAMESPACE, letter.namespace.encode()),
        (INTERACTION_ID, letter.interaction_id.encode()),
        (TOPIC, letter.origin.topic.encode()),
        (PARTITION, b"%d" % letter.origin.partition),
        (OFFSET, b"%d" % letter.origin.offset),
        (APPEND_MS, b"%d" % letter.append_ms),
    ]
    # A Kafka record needs a key or a value: a record with neither gets an empty key, and a header that says so.
    if letter.key is None and letter.value is None:
        headers.append((NULL_KEY, b"1"))
    return headers


def read_letter(key: bytes | None, value: bytes | None, headers: DeadLetterHeaders) -> Letter:
    """Read a record of the dead-letter topic. Raises ValueError for a record that is no dead letter."""
    names = [name for name, _ in headers]
    if REASON not in names:
        raise ValueError("not one of Tally's dead letters")
    # The rejected record may itself be a dead letter: its headers end where those of the last letter begin.
    begin = len(names) - 1 - names[::-1].index(REASON)
    ours = {name: (raw or b"").decode(errors="replace") for name, raw in headers[begin:]}
    try:
        return Letter(
            origin=Origin(ours[TOPIC], _number(ours[PARTITION], 2**31), _number(ours[OFFSET], 2**63)),
            append_ms=_number(ours[APPEND_MS], END_MS),
            reason=ours[REASON],
            field=ours[FIELD],
            message=ours[MESSAGE],
            namespace=ours[NAMESPACE],
            interaction_id=ours[INTERACTION_ID],
            key=None if NULL_KEY in ours else key,
            value=value,
            headers=tuple((read_name(name), raw) for name, raw in headers[:begin]),
        )
    except KeyError as missing:
        raise ValueError(f"a dead letter without {missing}") from None
