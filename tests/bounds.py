"""The JSON texts at the bounds of every field, on both sides of them: accepted or not is the validator's to say."""

from itertools import product

from schemas.fields import FieldKind
from schemas.interaction import FIELDS, INTERACTION_TYPES, MAX_INT32, MAX_OBJECT_BYTES, MAX_TYPES
from schemas.json_bounds import MAX_DEPTH

_DAYS = [
    "0000-01-01", "0001-01-01", "1582-10-10", "1677-09-21", "1899-12-31", "1900-01-01", "1900-02-29", "1969-12-31",
    "1970-01-01", "1971-01-01", "2000-02-29", "2023-02-29", "2024-02-29", "2024-02-30", "2026-00-10", "2026-13-01",
    "2026-01-00", "2026-04-31", "2260-12-31", "2261-12-31", "2262-01-01", "2262-04-11", "2262-04-12", "2299-12-31",
    "2300-01-01", "9999-12-31", "10000-01-01", "-001-01-01", "1970-1-1",
]  # fmt: skip
_TIMES = [
    "00:00", "00:00:00", "00:00:00.0", "00:00:00.000", "00:00:00.0009", "00:00:00.000000001", "00:00:00.001",
    "00:00:00.", "00:00:00,5", "00:29:59.9999", "12:00:00.1234567890", "23:59", "23:59:59", "23:59:59.999",
    "23:59:59.9999", "23:59:59.999999999", "23:59:60", "23:60:00", "24:00:00", "24:00", "0:00:00", "000000", "",
]  # fmt: skip
_SEPARATORS = ["T", "t", " ", "_", ""]
_ZONES = [
    "", "Z", "z", "+00:00", "-00:00", "+0000", "+00", "+00:01", "-00:01", "+00:30", "-00:30", "+05:45", "-12:00",
    "+14:00", "+23:59", "-23:59", "+24:00", "-24:00", "+00:60", "+1:00", "+01:00:00", "UTC", " Z",
]  # fmt: skip

TIMES = [f'"{"".join(parts)}"' for parts in product(_DAYS, ["T"], _TIMES, ["", "Z", "-00:30", "+00:30"])] + [
    f'"{"".join(parts)}"'
    for parts in product(
        ["1969-12-31", "1970-01-01", "2261-12-31", "2262-01-01"],
        _SEPARATORS,
        ["00:00", "00:29:59.9999", "23:59:59.999"],
        _ZONES,
    )
]
"""Every day with every time of day, and the days at the bounds with every separator and offset."""

_INTEGERS = [
    0, 1, 9, 10, MAX_INT32 - 1, MAX_INT32, MAX_INT32 + 1, 2**32 - 1, 2**32, 2**32 + 1, 9_999_999_999, 10**10, 10**11,
    2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**20, 10**308, 10**309, 10**4299, 10**4300,
]  # fmt: skip


def _digits(number: int) -> str:
    return str(number) if number < 10**400 else f"1{'0' * (4299 if number < 10**4300 else 4300)}"


INTEGERS = [sign + _digits(each) for each in _INTEGERS for sign in ("", "-", "+", "0", "00")] + [
    *(f"{each}{tail}" for each in (0, 1, MAX_INT32) for tail in (".0", ".", "e0", "E+0", "e-0", "e1", ".5", "x", " 1")),
    "true", "null", '"1"', "[]", "-", "", "1_000", "0x1", "\u0661",
]  # fmt: skip

FLOATS = [
    sign + text
    for text in (
        "0", "0.0", "0e0", "0E-999", "0e999", "1", "1.0", "1e1", "1E+1", "1e-1", "0.1", "00.1", ".1", "1.", "1.e1",
        "1e", "1e+", "4.9e-324", "5e-324", "2.4703282292062327e-324", "2.4703282292062328e-324", "1e-323", "1e-324",
        "1e-400",
        "2.2250738585072014e-308", "2.2250738585072011e-308", "1e280", "1e281", "1e300", "1e308", "1e309", "1e999",
        "1e99999999999999999999", "1e-99999999999999999999", "1.7976931348623157e308", "1.7976931348623158e308",
        "1.797693134862315807e308", "1.7976931348623159e308", "17976931348623157" + "0" * 292,
        "17976931348623159" + "0" * 292, "1" + "0" * 308, "1" + "0" * 309, "1" + "0" * 19, "1" + "0" * 20,
        "9007199254740992", "9007199254740993", "9007199254740993.0", "123456789012345678", "1234567890123456789",
        "0.12345678901234567", "0.123456789012345678901234567890", "0.30000000000000004", "0." + "0" * 330 + "1",
        "0." + "9" * 396, "0." + "9" * 397, "0." + "9" * 398, "0." + "9" * 399, "1" * 400, "1" * 401,
        "1." + "0" * 5000, "9" * 18, "9" * 19, "0." + "0" * 22 + "1", "0." + "0" * 23 + "1", "1e22", "1e23",
    )
    for sign in ("", "-", "+")
] + [
    "NaN", "Infinity", "-Infinity", "null", "true", '"0.5"', "[]", "{}", "1,5", "1e5e5", "--1", "1-1", "0x10",
]  # fmt: skip

_CHARACTERS = {
    "x": 1, "é": 2, "€": 3, "😀": 4, "\\n": 1, "\\/": 1, "\\u0000": 1, "\\u007f": 1, "\\u0080": 2, "\\u07ff": 2,
    "\\u0800": 3, "\\uffff": 3, "\\ud83d\\ude00": 4, "\\uDBFF\\uDFFF": 4, "\x7f": 1, "\u0080": 2, "\u2028": 3,
    "\U0010ffff": 4,
}  # fmt: skip
"""Spelling of a character, and its size in UTF-8."""


def texts(limit_bytes: int) -> list[str]:
    """Texts of exactly this many bytes, of a few more and less, and some invalid JSON strings."""
    written = [
        f'"{"x" * ((limit_bytes + more) % size)}{character * ((limit_bytes + more) // size)}"'
        for character, size in _CHARACTERS.items()
        for more in (-1, 0, 1)
    ]
    odd = [
        '""', '"\\ud800"', '"\\udc00"', '"\\udc00\\ud800"', '"\\ud800\\ud800"', '"\\ud800x"', '"\\ud800\\n"',
        '"\\ud800',
        '"\\u12"', '"\\u 123"', '"\\u+123"', '"\\x41"', '"\\"', '"\\\\"', '"\\U0041"', '"a\nb"', '"a\tb"', '"\x00"',
        '"\x1f"', "'x'", "x", "null", "1", "true", "[]", "{}", '["x"]', '"', "",
    ]  # fmt: skip
    return written + odd


INVALID_UTF_8 = [
    b"\x80", b"\xbf", b"\xc0\x80", b"\xc1\xbf", b"\xc2", b"\xe0\x80\x80", b"\xe0\x9f\xbf", b"\xe2\x82", b"\xed\xa0\x80",
    b"\xed\xb0\x80", b"\xf0\x80\x80\x80", b"\xf0\x8f\xbf\xbf", b"\xf4\x90\x80\x80", b"\xf5\x80\x80\x80", b"\xff",
    b"\xed\xa0\xbd\xed\xb8\x80", b"\xe2\x82\xacx\x80", b"\xef\xbb", b"\xef\xbf\xbe", b"\xed\x9f\xbf", b"\xee\x80\x80",
]  # fmt: skip
"""Invalid and valid byte sequences at the bounds of UTF-8."""


def _object_of(size: int) -> list[str]:
    frame = len('{"a":""}')
    return [
        f'{{"a":"{"x" * (size - frame)}"}}',
        f'{{"a":"{"é" * ((size - frame) // 2)}{"x" * ((size - frame) % 2)}"}}',
        f'{{"a":""{" " * (size - frame)}}}',
        "{" + " " * (size - 2) + "}",
    ]


def _nested(levels: int) -> list[str]:
    return [
        '{"a":' * levels + "1" + "}" * levels,
        '{"a":' + "[" * (levels - 1) + "]" * (levels - 1) + "}",
        '{"a":' + '[{"b":' * (levels // 2) + "0" + "}]" * (levels // 2) + "}",
        '{"a":"' + "[" * levels + '"}',
    ]


OBJECTS = [
    *(text for more in (-1, 0, 1) for text in _object_of(MAX_OBJECT_BYTES + more)),
    *(text for levels in range(MAX_DEPTH - 3, MAX_DEPTH + 3) for text in _nested(levels)),
    "{}", "{ }", "{\n}", '{"":""}', '{"a":1,"a":2}', '{"a":1e999}', '{"a":-0}', '{"a":NaN}', '{"a":1e309,"a":1}',
    '{"a":"\\ud800"}', '{"\\ud800":1}', '{"\\u0061":1}', '{"a":01}', '{"a":1,}', '{"a"}', "{a:1}", '{"a":1 "b":2}',
    '{"a":[1,]}', '{"a":[,1]}', '{"a":[1 2]}', '{"a":tru}', '{"a":truex}', '{"a":nul}', '{"a":true,"b":false,"c":null}',
    '{"a":1' + "0" * 4300 + "}", '{"a":1' + "0" * 4298 + "}", '{"a":1' + "0" * 308 + ".5}", "{", "}", "[]", "null",
    "1", '"{}"', "{}{}", '{"a":1}}', '{"a":{"b":[{"c":[[]]}]}}', '{"a":0.1e-5,"b":-1.5E+10,"c":123456789012345678901}',
    '{"a":1\x0b}', '{"a":\u00a01}', '{"a"\r\n\t :1}',
]  # fmt: skip

_CLICK, _ZERO = '"click"', '"zero_results"'
TYPES = [
    *(f"[{','.join([_CLICK] * count)}]" for count in (0, 1, 2, MAX_TYPES - 1, MAX_TYPES, MAX_TYPES + 1)),
    *(f"[{','.join([_CLICK] * (count - 1) + [_ZERO])}]" for count in (1, 2, MAX_TYPES, MAX_TYPES + 1)),
    *(f'["{name}"]' for name in INTERACTION_TYPES),
    *(f'["{name[:-1]}"]' for name in INTERACTION_TYPES),
    *(f'["{name}s"]' for name in INTERACTION_TYPES),
    "[" + ",".join(f'"{name}"' for name in INTERACTION_TYPES) + "]",
    '["cl\\u0069ck"]', '["Click"]', '[""]', "[null]", "[1]", '[["click"]]', '"click"', "null", "{}", "[", "]",
    '["click",]', '[,"click"]', '["click" "view"]', '[ "click" , "view" ]', '["click"', '["click', '["clicé"]',
]  # fmt: skip

_DIGITS = "0" * 12 + "7" + "0" * 3 + "8" + "0" * 15
IDS = [
    f'"int_{_DIGITS}"', f'"INT_{_DIGITS}"', f'"int-{_DIGITS}"', f'"{_DIGITS}"', f'"int_{_DIGITS}0"', '""', "null", "1",
    f'"int_{_DIGITS[:-1]}"', f'"int_{"f" * 12}7fffb{"f" * 15}"', f'"int_{"F" * 12}7FFFB{"F" * 15}"',
    *(f'"int_{_DIGITS[:12]}{version}{_DIGITS[13:]}"' for version in "0123456789abcdefg"),
    *(f'"int_{_DIGITS[:16]}{variant}{_DIGITS[17:]}"' for variant in "0123456789abcdefABCDEF"),
    *(f'"int_{_DIGITS[:at]}g{_DIGITS[at + 1 :]}"' for at in range(32)),
    f'"int_\\u0030{_DIGITS[1:]}"', f'"int_{_DIGITS[:-1]}\\n"', f'"int_{_DIGITS[:-1]}٣"', f'" int_{_DIGITS}"', "[]",
    "{}",
]  # fmt: skip

_OF_KINDS: dict[FieldKind, list[str]] = {
    "types": TYPES,
    "integer": INTEGERS,
    "float": FLOATS,
    "object": OBJECTS,
    "time": TIMES,
}
OF_FIELDS: dict[str, list[str]] = {
    **{field.name: _OF_KINDS.get(field.kind) or texts(field.max_bytes) for field in FIELDS},
    "interaction_id": IDS,
}
"""Values at the bounds of each field."""
