"""The scanner says yes only where the judge does, and finds the same values; what the judge lets pass, it takes too."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from consumers.columns import interaction_rows
from consumers.events import Events
from schemas.dedup import dedup_key
from schemas.event_time import from_epoch_ms, parse_occurred_at, to_epoch_ms
from schemas.identity import derive_foreign_id
from schemas.interaction import INTERACTION_TYPES
from schemas.judge import judge
from schemas.rejection import Rejection
from schemas.scan_event import NUMBER_AT
from schemas.scan_fields import vocabulary
from schemas.wire import NULL, Judged, WireEvent
from tests.judging import APPEND_MS, NAMESPACE, is_sure, judged, scanned
from tests.native import rows_of

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

mostly_good = st.fixed_dictionaries(
    {
        "feature_id": st.text(max_size=20) | scalars,
        "interaction_type": st.lists(st.sampled_from(INTERACTION_TYPES), max_size=4),
        "position": st.integers(-2, 2**31 + 1),
    },
    optional={
        "metadata": deep | scalars,
        "query_snapshot": deep,
        "user_id": scalars,
        "session_id": st.text(),
        "execution_id": scalars,
        "retriever_id": st.text(max_size=600),
        "document_score": st.floats() | st.integers() | scalars,
        "result_set_size": st.integers(-1, 2**31),
        "feature_uri": scalars,
        "occurred_at": times,
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


def base(**fields: str) -> bytes:
    plain = {"feature_id": '"x"', "interaction_type": '["click"]', "position": "1"} | fields
    return ("{" + ",".join(f'"{name}":{text}' for name, text in plain.items()) + "}").encode()


def shown(value: object) -> str:
    """Tells -0.0 from 0.0 and 1 from 1.0, and no two names of one time zone."""
    return repr(value.astimezone(UTC) if isinstance(value, datetime) else value)


def found_in(events: Events) -> dict[int, dict[str, Any]]:
    """By offset, all that would be stored, and the key."""
    rows: dict[int, dict[str, Any]] = {}
    for event, row in zip(events, rows_of(interaction_rows("t", events)), strict=True):
        rows[event.offset] = {name: shown(value) for name, value in row.items()} | {"key": shown(event.key)}
        assert (event.feature_id, event.user_id, event.session_id, event.execution_id) == tuple(
            row[name] for name in ("feature_id", "user_id", "session_id", "execution_id")
        )
    return rows


def expected(offset: int, verdict: Judged) -> dict[str, str]:
    """The same, from the judge."""
    event, occurred_ms = verdict
    row = {name: getattr(event, name) for name in WireEvent.__struct_fields__}
    for name in ("metadata", "query_snapshot"):
        row[name] = "" if row[name] is NULL else bytes(row[name]).decode()
    event_ms = APPEND_MS if occurred_ms is None else occurred_ms
    row |= {
        "namespace": NAMESPACE,
        "interaction_id": event.interaction_id or derive_foreign_id("t", 3, offset, APPEND_MS),
        "occurred_at": None if occurred_ms is None else from_epoch_ms(min(occurred_ms, APPEND_MS)),
        "timestamp": from_epoch_ms(APPEND_MS),
        "_event_time_ms": event_ms,
        "_idempotency_key": "",
        "_keyed": int(bool(event.execution_id)),
        "version": 0,
        "is_deleted": 0,
        "_topic": "t",
        "_partition": 3,
        "_offset": offset,
        "key": dedup_key(NAMESPACE, event.execution_id, event.feature_id, event.interaction_type),
    }
    return {name: shown(value) for name, value in row.items()}


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
def test_what_is_stored_is_what_the_judge_says(values: list[bytes | None]) -> None:
    found = judged(values)
    verdicts = {at: judge(value) for at, value in enumerate(values)}
    assert {each.offset: each.rejection for each in found.rejected} == {
        at: verdict for at, verdict in verdicts.items() if isinstance(verdict, Rejection)
    }
    assert found_in(found.events) == {
        at: expected(at, verdict) for at, verdict in verdicts.items() if isinstance(verdict, Judged)
    }


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
def test_the_scanner_takes_ordinary_events(
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
def test_times_are_read_as_the_judge_reads_them(moment: str, zone: str) -> None:
    columns, (valid,) = scanned(base(occurred_at=json.dumps(moment + zone)))
    if valid:
        found = columns.numbers[0, NUMBER_AT["occurred_at"]]
        assert found == to_epoch_ms(parse_occurred_at(moment + zone))


@given(st.binary(max_size=12))
def test_text_is_utf_8_as_python_reads_it(raw: bytes) -> None:
    raw = bytes(byte for byte in raw if byte not in b'"\\' and byte >= 32)
    try:
        raw.decode()
    except UnicodeDecodeError:
        assert is_sure(base().replace(b'"x"', b'"%b"' % raw)) == [False]
    else:
        assert is_sure(base().replace(b'"x"', b'"%b"' % raw)) == [True]


def test_every_byte_that_is_cut_off_is_missed() -> None:
    """Nothing is read behind a value's end, where another one begins."""
    value = GOOD[:-1] + b',"occurred_at":"2026-01-02T03:04:05.678Z","document_score":-1.5e-7,"user_id":"\\u00e9\\n"}'
    assert is_sure(value) == [True]
    cut = [value[:size] for size in range(len(value))]
    assert is_sure(*(each for part in cut for each in (part, value))) == [False, True] * len(cut)


def test_words_that_cannot_be_told_apart_are_refused() -> None:
    with pytest.raises(ValueError, match="alike"):
        vocabulary([f"a{letter}b" for letter in "xyz"])
    assert vocabulary(INTERACTION_TYPES).sizes.tolist() == [len(word) for word in INTERACTION_TYPES]
