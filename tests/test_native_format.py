"""Blocks are readable by ClickHouse; scores equal Python's `float` of their text."""

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from consumers.native_format import block, lists, nullable, numbers, texts, texts_by_number, times
from kernels.native_columns import read_scores
from schemas.event_time import from_epoch_ms
from tests.native import rows_of

some_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
long_texts = st.sampled_from([127, 128, 16_383, 16_384, 70_000]).map(lambda size: "x" * size)
rows = st.tuples(
    some_texts | long_texts,
    st.integers(0, 1),
    st.integers(0, 2**32 - 1),
    st.none() | st.floats(allow_nan=False),
    st.integers(0, 2**40),
    st.lists(some_texts, max_size=3),
)


@given(st.lists(rows, max_size=6))
def test_a_block_is_read_back_unchanged(rows: list[tuple[str, int, int, float | None, int, list[str]]]) -> None:
    floats = np.array([0.0 if row[3] is None else row[3] for row in rows], np.float64)
    columns = {
        "text": texts(row[0] for row in rows),
        "by_number": texts_by_number(np.array([row[1] for row in rows], np.int32), ["zero", "one"]),
        "number": numbers(np.array([row[2] for row in rows], np.uint32)),
        "nullable": nullable(numbers(floats), np.array([row[3] is None for row in rows], np.bool_)),
        "time": times(np.array([row[4] for row in rows], np.int64)),
        "list": lists(
            np.cumsum([len(row[5]) for row in rows], dtype=np.int32), texts(item for row in rows for item in row[5])
        ),
    }
    expected = [
        {"text": text, "by_number": ["zero", "one"][which], "number": number, "nullable": floating,
         "time": from_epoch_ms(ms), "list": items}
        for text, which, number, floating, ms, items in rows
    ]  # fmt: skip
    assert rows_of(block(columns, len(rows))) == expected


digits = st.text("0123456789", min_size=1, max_size=25).map(lambda text: text.lstrip("0") or "0")
json_numbers = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["", "-"]),
    digits,
    st.just("") | st.text("0123456789", min_size=1, max_size=30).map(lambda text: f".{text}"),
    st.sampled_from(["", "", "e5", "E-7", "e+300", "e-330"]),
)


@given(st.lists(st.none() | json_numbers | st.floats(allow_nan=False, allow_infinity=False).map(repr), max_size=8))
@example(
    ["9007199254740992", "9007199254740993", "0.1", "-0", "0.3000000000000000444", "1" + "0" * 22, "0.9452706955539223"]
)
def test_scores_are_the_nearest_doubles(written: list[str | None]) -> None:
    raw = [(text or "").encode() for text in written]
    ends = np.cumsum([0, *map(len, raw)])
    sizes = np.array([-1 if text is None else len(text) for text in written], np.int64)
    spans = np.stack([ends[:-1], sizes, sizes], axis=1)
    found = read_scores(np.frombuffer(b"".join(raw) + b" ", np.uint8), spans)
    assert list(map(repr, found.tolist())) == [repr(0.0 if text is None else float(text)) for text in written]
