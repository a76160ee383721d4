"""The scanner accepts only events that the validator accepts, with the same values; no valid event is lost."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kernels.scan_event import NUMBER_AT
from kernels.scan_fields import vocabulary
from schemas.event_time import parse_occurred_at, to_epoch_ms
from schemas.fields import FieldKind
from schemas.interaction import FIELDS, INTERACTION_TYPES
from tests.agreement import assert_agreement, base
from tests.validating import is_sure, scanned

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["int_" + "0" * 12 + "7" + "0" * 3 + "8" + "0" * 15, "int_x", "2026-01-01T00:00:00Z", "é" * 130])
)
objects = st.dictionaries(st.text(max_size=6), scalars | st.lists(scalars, max_size=3), max_size=4)
deep = st.recursive(objects, lambda inner: st.dictionaries(st.text(max_size=2), inner, max_size=2), max_leaves=40)
times = st.datetimes().map(lambda moment: moment.isoformat()) | st.text("0123456789-:TZ+. ", max_size=30)

of_kinds: dict[FieldKind, st.SearchStrategy[Any]] = {
    "text": st.text(max_size=600) | scalars,
    "types": st.lists(st.sampled_from(INTERACTION_TYPES), max_size=4),
    "integer": st.integers(-2, 2**31 + 1),
    "float": st.floats() | st.integers() | scalars,
    "object": deep | scalars,
    "time": times,
}
mostly_good = st.fixed_dictionaries(
    {field.name: of_kinds[field.kind] for field in FIELDS if field.required},
    optional={
        **{field.name: of_kinds[field.kind] for field in FIELDS if not field.required},
        "interaction_id": scalars,
        "document_id": st.text(max_size=3),
        "unknown": scalars,
    },
)
NASTY = [
    b"\xff", b"\\ud800", b"\\u0000", b"1e999", b"1e308", b"-0.0", b"NaN", b"1" + b"0" * 400, b"[" * 40, b"{}", b'"',
    b"\x00", b"\x7f", b"\t", b",", b"01", b"1.", b"null", b'"metadata":', b'{"a":1,"a":2}',
]  # fmt: skip


SHADOWED = [b'{"a":1}', b'{"a":1e999}', b'{"a":"\xff"}', b'{"a":"\\ud800"}', b"[" * 40 + b"]" * 40, b"null", b"7"]


@st.composite
def values(draw: st.DrawFn) -> bytes:
    """JSON of an interaction, often flawed: bytes put in, taken out or doubled anywhere."""
    value = json.dumps(draw(mostly_good), ensure_ascii=draw(st.booleans())).encode(errors="surrogatepass")
    if draw(st.booleans()):  # a key once more, in front of the good one, spelled plainly or with an escape
        name = draw(st.sampled_from(["metadata", "query_snapshot", "\\u006detadata", "position", "feature_id"]))
        value = b'{"%s":%s,%s' % (name.encode(), draw(st.sampled_from(SHADOWED)), value[1:])
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(value)))
        cut = draw(st.integers(0, 3))
        value = value[:at] + draw(st.sampled_from(NASTY)) + value[at + cut :]
    return value


GOOD = base(metadata='{"a":[1,{"b":2}]}', interaction_id='"int_' + "0" * 12 + "7" + "0" * 3 + "8" + "0" * 15 + '"')


@given(st.lists(values() | st.sampled_from([GOOD, GOOD + b" ", GOOD + GOOD, b"", None]), max_size=6))
@example([base()])
@example([base(metadata="null", document_score="-0", occurred_at="null")])
@example([base(metadata='{"a":1e999}')])
@example([base(metadata="[]")])
@example([base(user_id='"' + "é" * 300 + '"')])
@example([base(feature_uri='"' + "é" * 1100 + '"')])
@example([base(metadata='"text"')])
@example([base(metadata='{"a":' * 31 + "1" + "}" * 31)])
@example([base(metadata='{"a":[' + ",".join(["{}"] * 40) + "]}")])
@example([base(metadata='{"a":' * 32 + "1" + "}" * 32)])
@example([base(document_score="99999999999999999999999999")])
@example([base(document_score="1" + "0" * 308)])
@example([base(document_score="1" + "0" * 309)])
@example([base(result_set_size="0", interaction_type='["zero_results"]')])
@example([base(feature_id='"\\u0000\\ud83d\\ude00"')])
@example([base(position='1,"position":2')])
@example([base(metadata='{"a":1e999},"metadata":{}')])
@example([base(metadata='{"a":"\\ud800"},"metadata":{}')])
@example([base(metadata='{"a":1e999},"\\u006detadata":{}')])
@example([base(occurred_at='"2026-01-01T24:00:00Z"')])
@example(
    [
        base(
            document_score="1e-7",
            feature_id='"\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\\u20ac"',
            execution_id='"\\ud83d\\ude00"',
        )
    ]
)
@example([base(interaction_type='["view","click","view"]', execution_id='"e"'), GOOD])
@example([base(occurred_at='"2024-02-29T23:59:60Z"'), base(occurred_at='"2023-02-29T00:00:00Z"')])
def test_scanner_and_validator_agree(values: list[bytes | None]) -> None:
    assert_agreement(values)


@given(
    st.fixed_dictionaries(
        {"feature_id": st.text(max_size=128), "position": st.integers(0, 2**31 - 1)},
        optional={
            "metadata": st.dictionaries(
                st.text(max_size=5), st.integers(-(10**19), 10**19) | st.text() | st.floats(-1e9, 1e9)
            ),
            "document_score": st.floats(-1e9, 1e9),
            "occurred_at": st.sampled_from(
                ["2026-01-02T03:04:05.678Z", "2026-01-02T03:04:05", "2026-01-02T03:04:05-07:30"]
            ),
            "user_id": st.none() | st.text(max_size=9),
        },
    ),
    st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t: ")]),
    st.booleans(),
)
def test_the_scanner_accepts_ordinary_events(
    fields: dict[str, Any], separators: tuple[str, str], ascii_only: bool
) -> None:
    value = json.dumps(fields | {"interaction_type": ["click"]}, separators=separators, ensure_ascii=ascii_only)
    assert is_sure(value.encode()) == ["-0," not in value and "-0}" not in value]


def test_document_id_stands_for_feature_id() -> None:
    value = GOOD.replace(b"feature_id", b"document_id")
    assert is_sure(value, GOOD[:-1] + b',"document_id":"x"}') == [True, False]


@given(
    st.datetimes().map(lambda moment: moment.isoformat()) | times,
    st.sampled_from(["", "Z", "+00:00", "-07:30", "+23:59", "+24:00"]),
)
def test_scanner_and_validator_agree_on_times(moment: str, zone: str) -> None:
    columns, (valid,) = scanned(base(occurred_at=json.dumps(moment + zone)))
    if valid:
        found = columns.numbers[0, NUMBER_AT["occurred_at"]]
        assert found == to_epoch_ms(parse_occurred_at(moment + zone))


@given(st.binary(max_size=12))
def test_scanner_and_python_agree_on_utf_8(raw: bytes) -> None:
    raw = bytes(byte for byte in raw if byte not in b'"\\' and byte >= 32)
    try:
        raw.decode()
    except UnicodeDecodeError:
        assert is_sure(base().replace(b'"x"', b'"%b"' % raw)) == [False]
    else:
        assert is_sure(base().replace(b'"x"', b'"%b"' % raw)) == [True]


def test_a_truncated_value_is_never_accepted() -> None:
    """Nothing is read after a value's end, where another one begins."""
    value = GOOD[:-1] + b',"occurred_at":"2026-01-02T03:04:05.678Z","document_score":-1.5e-7,"user_id":"\\u00e9\\n"}'
    assert is_sure(value) == [True]
    cut = [value[:size] for size in range(len(value))]
    assert is_sure(*(each for part in cut for each in (part, value))) == [False, True] * len(cut)


def test_an_ambiguous_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match="alike"):
        vocabulary([f"a{letter}b" for letter in "xyz"])
    assert vocabulary(INTERACTION_TYPES).sizes.tolist() == [len(word) for word in INTERACTION_TYPES]
