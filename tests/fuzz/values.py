"""Record values: valid events by the grammar, at the bounds of their fields, and all kinds of damage to them."""

import json
from collections.abc import Callable
from datetime import timedelta, timezone
from random import Random

from schemas.event_time import END_MS, from_epoch_ms
from schemas.fields import FieldKind
from schemas.interaction import FIELDS, INTERACTION_TYPES, MAX_TYPES
from tests.bounds import INVALID_UTF_8, OF_FIELDS

_REQUIRED = [field.name for field in FIELDS if field.required]
_SPACES = ("", "", "", " ", "\n", "\t ", "\r\n", " " * 40)
_PIECES = (
    "a", "Z", "0", " ", "/", "é", "ß", "€", "中", "😀", "\x7f", "\u2028", "\ufeff", "\U0010ffff", '\\"', "\\\\", "\\/",
    "\\b", "\\n", "\\u0000", "\\u001f", "\\u00e9", "\\u20AC", "\\ud83d\\ude00", "\\uDBFF\\uDFFF", "x" * 31, "x" * 32,
    "x" * 33, "é" * 16,
)  # fmt: skip
_WRONG_PIECES = ("\\ud800", "\\udc00", "\\u12", "\\x", "\\", "\n", "\x00", '"')
_NASTY = (
    *INVALID_UTF_8, b'"', b"\\", b"\\u", b"\\ud800", b"{", b"}", b"[", b"]", b",", b":", b"null", b"tru", b"-", b"-0",
    b"01", b".", b"e", b"1e999", b"1e-999", b"1" * 25, b"\x00", b"\x1f", b"\x7f", b"\xef\xbb\xbf", b" " * 64,
    b"[" * 40, b"{}",
    b'"a":1', b"NaN", b"1970", b"2261-12-31T23:59:59.999Z", b"9" * 19, b"\xe2\x82\xac", b"\xf0\x9f\x98\x80",
)  # fmt: skip
_LARGEST_SPLICE = 400


class Values:
    """An endless source of values, which depends on its random numbers only."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._others: list[bytes] = [b"{}"]
        self.whole = b"{}"
        """The last value before it was damaged."""
        self._oddness = 0.0
        """Probability that a part of the value is one that the validator may refuse."""

    def value(self) -> bytes:
        """The next one."""
        random = self._random
        self._oddness = random.choice((0, 0, 0.02, 0.2))
        fields = self._fields()
        text = self._spaced("{", [f"{self._key(name)}:{value}" for name, value in fields], "}")
        value = self.whole = text.encode(errors="surrogatepass")
        for _ in range(random.choice((0, 0, 0, 1, 2, 4))):
            value = random.choice(_MUTATIONS)(value, random, self._others)
        self._others = [*self._others[-15:], value]
        return value

    def _fields(self) -> list[tuple[str, str]]:
        random = self._random
        wanted = list(_REQUIRED) + random.sample(list(OF_FIELDS), random.randrange(8))
        if random.random() < 0.1:
            wanted = random.sample(wanted, len(wanted))
        if random.random() < 0.1:
            wanted[wanted.index("feature_id")] = "document_id"
        names = wanted if self._is_odd() else list(dict.fromkeys(wanted))
        return [(name, self._field(name)) for name in names]

    def _field(self, name: str) -> str:
        random = self._random
        # The largest texts take most of the time, and are rare.
        if self._is_odd() and name in OF_FIELDS:
            text = random.choice(OF_FIELDS[name])
            if len(text) < _LARGEST_SPLICE or random.random() < 0.2:
                return text
        if self._is_odd():
            return random.choice(("null", "true", "{}", "[]", '""', "0", self._number(), self._text(), self._object(2)))
        return _OF_FIELD[name](self)

    def _is_odd(self) -> bool:
        return self._random.random() < self._oddness

    def _key(self, name: str) -> str:
        if self._is_odd():
            at = self._random.randrange(len(name))
            name = f"{name[:at]}\\u{ord(name[at]):04x}{name[at + 1 :]}"
        return f'"{name}"{self._space()}'

    def _space(self) -> str:
        return self._random.choice(_SPACES) if self._random.random() < 0.2 else ""

    def _spaced(self, opening: str, items: list[str], closing: str) -> str:
        space = self._space
        return f"{space()}{opening}{space()}{f'{space()},{space()}'.join(items)}{space()}{closing}{space()}"

    def _text(self) -> str:
        random = self._random
        pieces = random.choices(_PIECES, k=random.choice((0, 1, 2, 5, 20)))
        if self._is_odd():
            pieces.append(random.choice(_WRONG_PIECES))
        return f'"{"".join(pieces)}"'

    def _integer(self) -> str:
        random = self._random
        return str(random.choice((0, 1, random.randrange(100), random.randrange(2**31), 2**31 - 1)))

    def _number(self) -> str:
        random = self._random
        digits = "".join(random.choices("0123456789", k=random.choice((1, 2, 8, 17, 19, 30)))).lstrip("0") or "0"
        decimals = "." + "".join(random.choices("0123456789", k=random.choice((1, 6, 17, 40))))
        power = random.choice((0, 1, 22, 200, 280, 308, 330) if self._is_odd() else (0, 1, 22, 200))
        exponent = random.choice("eE") + random.choice(("", "+", "-")) + str(power)
        tails = ("", decimals, exponent, decimals + exponent)
        return random.choice(("", "", "-")) + digits + random.choice(tails)

    def _time(self) -> str:
        """A time of any form, or one in the usual form within a minute of the earliest or the latest."""
        random = self._random
        if random.random() < 0.3:
            bound_ms, away_ms = random.choice((0, END_MS)), random.choice((0, 1, 999, random.randrange(60_000)))
            moment = from_epoch_ms(bound_ms - away_ms - 1 if random.random() < 0.5 else bound_ms + away_ms)
            elsewhere = timezone(timedelta(minutes=random.choice((0, 0, 1, -1, 30, -720, 1_439))))
            return f'"{moment.astimezone(elsewhere).isoformat(timespec="milliseconds")}"'
        odd = 2 * self._is_odd()
        years = (1970, 1971, 2024, 2026, 2261, random.randrange(1970, 2262))
        year = random.choice((1969, 2262, random.randrange(10_000)) if odd else years)
        date = f"{year:04}-{random.randint(1 - odd, 12 + odd):02}-{random.randint(1 - odd, 28 + 2 * odd):02}"
        clock = f"{random.randrange(24 + odd):02}:{random.randrange(60 + odd):02}"
        seconds = random.choice(("", f":{random.randrange(60 + odd):02}"))
        fraction = (
            "." + "".join(random.choices("0123456789", k=random.choice((1, 3, 6, 9, 9 + odd)))) if seconds else ""
        )
        ahead = f"{random.choice('+-')}{random.randrange(24 + odd):02}:{random.randrange(60 + odd):02}"
        zone = random.choice(("", "Z", "z", ahead))
        separator = random.choice("TTTTt _" if odd else "TTTTt ")
        return f'"{date}{separator}{clock}{seconds}{random.choice(("", fraction))}{zone}"'

    def _types(self) -> str:
        random = self._random
        count = random.choice((1, 1, 1, 2, 5, MAX_TYPES, MAX_TYPES + self._is_odd()))
        return self._spaced("[", [f'"{name}"' for name in random.choices(INTERACTION_TYPES, k=count)], "]").strip()

    def _id(self) -> str:
        random = self._random
        digits = f"{random.getrandbits(48):012x}7{random.getrandbits(12):03x}{random.choice('89ab')}"
        return f'"int_{digits}{random.getrandbits(60):015x}"'

    def _object(self, levels: int = 4) -> str:
        random = self._random
        if self._is_odd():
            depth = random.choice((29, 30, 31, 32, 33, 40))
            return '{"a":' + "[" * depth + self._number() + "]" * depth + "}"
        items = [f"{self._text()}{self._space()}:{self._any(levels - 1)}" for _ in range(random.randrange(4))]
        if items and random.random() < 0.1:
            items.append(random.choice(items))  # a key that comes twice
        return self._spaced("{", items, "}").strip()

    def _any(self, levels: int) -> str:
        random = self._random
        if levels and random.random() < 0.3:
            return self._object(levels)
        if levels and random.random() < 0.2:
            return self._spaced("[", [self._any(levels - 1) for _ in range(random.randrange(4))], "]")
        return random.choice(("true", "false", "null", self._number(), self._text(), json.dumps(random.random())))


_OF_KIND: dict[FieldKind, Callable[[Values], str]] = {
    "text": Values._text,
    "types": Values._types,
    "integer": Values._integer,
    "float": Values._number,
    "object": Values._object,
    "time": Values._time,
}
_OF_FIELD = {field.name: _OF_KIND[field.kind] for field in FIELDS}
_OF_FIELD |= {"document_id": Values._text, "interaction_id": Values._id}


def _place(value: bytes, random: Random) -> int:
    return random.randrange(len(value) + 1)


def _flip(value: bytes, random: Random, _others: list[bytes]) -> bytes:
    if not value:
        return value
    at = random.randrange(len(value))
    return value[:at] + bytes([value[at] ^ (1 << random.randrange(8))]) + value[at + 1 :]


def _set_byte(value: bytes, random: Random, _others: list[bytes]) -> bytes:
    at = _place(value, random)
    return value[:at] + bytes([random.randrange(256)]) + value[at + 1 :]


def _put_in(value: bytes, random: Random, _others: list[bytes]) -> bytes:
    at = _place(value, random)
    return value[:at] + random.choice(_NASTY) + value[at + random.choice((0, 0, 1, 3)) :]


def _take_out(value: bytes, random: Random, _others: list[bytes]) -> bytes:
    at = _place(value, random)
    return value[:at] + value[at + random.choice((1, 1, 2, 8, 40)) :]


def _truncate(value: bytes, random: Random, _others: list[bytes]) -> bytes:
    return value[: _place(value, random)]


def _double(value: bytes, random: Random, _others: list[bytes]) -> bytes:
    at = _place(value, random)
    return value[:at] + value[at : at + random.randrange(_LARGEST_SPLICE)] * 2 + value[at + _LARGEST_SPLICE :]


def _splice(value: bytes, random: Random, others: list[bytes]) -> bytes:
    other = random.choice(others)
    return value[: _place(value, random)] + other[_place(other, random) :]


def _key_again(value: bytes, random: Random, _others: list[bytes]) -> bytes:
    """A key once more, before all others: the last one counts."""
    name = random.choice((*OF_FIELDS, "document_id", "\\u006detadata", "unknown"))
    text = random.choice(("null", "1", '"x"', '{"a":1e999}', '{"a":"\\ud800"}', "[[[[]]]]", '["click"]'))
    return value.replace(b"{", b'{"%b":%b,' % (name.encode(), text.encode()), 1)


_MUTATIONS: tuple[Callable[[bytes, Random, list[bytes]], bytes], ...] = (
    _flip, _flip, _set_byte, _put_in, _put_in, _take_out, _truncate, _double, _splice, _key_again,
)  # fmt: skip
