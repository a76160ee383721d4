"""The fast path says yes only where the judge does, and then to the same values."""

import json
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from schemas.fast_path import Outcome, decode_fast, validate, validate_all
from schemas.interaction import INTERACTION_TYPES
from schemas.judge import judge
from schemas.rejection import Rejection
from schemas.wire import Judged, WireEvent

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


def shown(judged: Judged) -> dict[str, Any]:
    """Everything that would be stored. repr tells -0.0 from 0.0 and 1 from 1.0."""
    fields = {name: getattr(judged.event, name) for name in WireEvent.__struct_fields__}
    for name in ("metadata", "query_snapshot"):
        fields[name] = bytes(fields[name])
    return {name: repr(value) for name, value in fields.items()} | {"ms": repr(judged.occurred_ms)}


def base(**fields: str) -> bytes:
    plain = {"feature_id": '"x"', "interaction_type": '["click"]', "position": "1"} | fields
    return ("{" + ",".join(f'"{name}":{text}' for name, text in plain.items()) + "}").encode()


@given(values())
@example(base())
@example(base(metadata="null", document_score="-0", occurred_at="null"))
@example(base(metadata='{"a":1e999}'))
@example(base(metadata="[]"))
@example(base(user_id='"' + "é" * 300 + '"'))
@example(base(feature_uri='"' + "é" * 1100 + '"'))
@example(base(metadata='"text"'))
@example(base(metadata='{"a":' * 31 + "1" + "}" * 31))
@example(base(metadata='{"a":[' + ",".join(["{}"] * 40) + "]}"))
@example(base(metadata='{"a":' * 32 + "1" + "}" * 32))
@example(base(document_score="99999999999999999999999999"))
@example(base(document_score="1" + "0" * 308))
@example(base(document_score="1" + "0" * 309))
@example(base(result_set_size="0", interaction_type='["zero_results"]'))
@example(base(feature_id='"\\u0000\\ud83d\\ude00"'))
@example(base(position='1,"position":2'))
@example(base(metadata='{"a":1e999},"metadata":{}'))
@example(base(metadata='{"a":"\\ud800"},"metadata":{}'))
@example(base(metadata='{"a":1e999},"\\u006detadata":{}'))
@example(base(occurred_at='"2026-01-01T24:00:00Z"'))
def test_the_fast_path_agrees_with_the_judge(value: bytes) -> None:
    fast = decode_fast(value)
    if fast is not None:
        judged = judge(value)
        assert isinstance(judged, Judged), judged
        assert shown(fast) == shown(judged)


@given(
    st.fixed_dictionaries(
        {"feature_id": st.text("abcxyz-0189", min_size=1, max_size=128), "position": st.integers(0, 2**31 - 1)},
        optional={"metadata": st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=4)},
    )
)
def test_the_fast_path_takes_ordinary_events(fields: dict[str, Any]) -> None:
    assert decode_fast(json.dumps(fields | {"interaction_type": ["click"]}).encode()) is not None


GOOD = base(metadata='{"a":[1,{"b":2}]}', interaction_id='"int_' + "0" * 12 + "7" + "0" * 3 + "8" + "0" * 15 + '"')
ordinary = st.builds(
    lambda position, metadata: base(position=str(position), **({"metadata": metadata} if metadata else {})),
    st.integers(0, 9),
    st.sampled_from(["", "{}", '{"metadata":1}', '{"a":"}\\n{"}', '{"a":1e999}', "null", "7"]),
)
tricky = st.sampled_from(
    [
        GOOD,
        GOOD + GOOD,
        GOOD + b"\n" + GOOD,
        b"\n" + GOOD,
        GOOD + b" ",
        GOOD[:-1],
        base(metadata="{")[:-1],
        b"{}}",
        b"{}",
        b"",
        b" ",
        b"}",
        b'{"feature_id":"}',
        base(metadata='{"a":1}')[:-9],
        base(metadata='{"a":1e999},"metadata":{}'),
        base(metadata='{"a":1e999},"\\u006detadata":{}'),
        base(interaction_id='"int_' + "z" * 32 + '"'),
        base(result_set_size="0"),
        base(result_set_size="0", interaction_type='["zero_results"]'),
        None,
    ]
)


@given(st.lists(ordinary | tricky | values(), max_size=8))
@example([base(metadata="{")[:-2], b"{}}", GOOD + GOOD])
@example([base(metadata='{"a":"}'), b"{}}", GOOD + GOOD])
@example([GOOD, b"{}\n{}"])
@example([b"", GOOD + GOOD])
@example([GOOD] * 300)
def test_many_together_get_the_verdicts_that_each_gets_alone(values: list[bytes | None]) -> None:
    def comparable(outcome: Outcome) -> object:
        return outcome if isinstance(outcome, Rejection) else shown(Judged(*outcome))

    assert list(map(comparable, validate_all(values))) == [comparable(validate(value)) for value in values]
