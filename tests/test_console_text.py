"""Numbers, times and foreign text as the console shows them."""

import unicodedata
from html.parser import HTMLParser

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markupsafe import escape

from console.text import (
    NO_NAME,
    NONE,
    brief,
    counted,
    duration,
    number,
    parse_time,
    pretty_json,
    sentence,
    share,
    size,
    time,
    unit_format,
    visible,
)


class _Text(HTMLParser):
    """Text of an HTML fragment, and the names of its elements."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.elements = "", set[str]()
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, _attrs: object) -> None:
        self.elements.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


@given(st.text(max_size=300))
@example("<script>alert(1)</script>")
@example("a\u202eb\x00c\u200b")
def test_foreign_text_stays_text_and_hides_nothing(text: str) -> None:
    html = str(escape(visible(text, 0)))
    seen = _Text(html)
    assert seen.elements <= {"span"}
    assert not [each for each in html if each not in "\n\t" and unicodedata.category(each).startswith("C")]
    if not any(unicodedata.category(each).startswith("C") for each in text):
        assert seen.text == text.replace("\r\n", "\n").replace("\r", "\n") or "\r" in text


def test_a_cut_text_says_how_long_it_is() -> None:
    shown = str(visible("x" * 65_536))
    assert "65,536 characters in all" in shown
    assert len(shown) < 400


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 ms"), (999, "999 ms"), (1_500, "1.5 s"), (61_000, "1.0 min"), (7_200_000, "2 h"), (None, NONE)],
)  # fmt: skip
def test_durations_have_the_unit_that_people_read(value: float | None, text: str) -> None:
    assert duration(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0.0 %"), (0.1234, "12.3 %"), (1, "100.0 %"), (0.99999, "100.00 %"), (None, NONE)],
)  # fmt: skip
def test_shares_are_percentages(value: float | None, text: str) -> None:
    assert share(value) == text


def test_numbers_keep_three_digits_and_sizes_have_binary_units() -> None:
    assert [number(each) for each in (0.00123456, 1.5, 1234.5678, 12)] == ["0.00123", "1.5", "1,235", "12"]
    assert [number(each) for each in (1.25e-12, float("nan"), float("inf"), 0)] == ["1.2e-12", NONE, NONE, "0"]
    assert [size(each) for each in (0, 1023, 1024, 65_536, 3 << 30)] == [
        "0 B",
        "1,023 B",
        "1.0 KiB",
        "64.0 KiB",
        "3.0 GiB",
    ]


def test_counts_agree_with_their_noun() -> None:
    assert [counted(each, "letter") for each in (0, 1, 2, 1234)] == [
        "0 letters",
        "1 letter",
        "2 letters",
        "1,234 letters",
    ]
    assert [counted(each, "event was", "events were") for each in (1, 2)] == ["1 event was", "2 events were"]
    assert counted(None, "event") == f"{NONE} events"


def test_remarks_begin_with_a_capital_and_names_stay() -> None:
    assert sentence("deleted events are not found by user_id") == "Deleted events are not found by user_id"
    for text in ("user_id is not kept", "metadata.device is", "12 events", "Users", ""):
        assert sentence(text) == text


def test_a_brief_text_has_the_whole_one_as_title() -> None:
    assert str(brief("red shoes")) == "red shoes"
    assert brief(None) == NONE
    assert str(brief('red "shoes" & \u202ecoats', 10)) == (
        '<span title="red &#34;shoes&#34; &amp; \\u{202e}coats">red &#34;shoe<span class="cut">…</span></span>'
    )


def test_a_time_is_an_element_that_names_utc() -> None:
    shown = str(time("2026-11-29T10:00:00.123Z"))
    assert 'datetime="2026-11-29T10:00:00.123Z"' in shown
    assert 'title="2026-11-29 10:00:00.123 UTC"' in shown
    assert parse_time("yesterday") is None
    assert str(time("<b>")) == "&lt;b&gt;"


def test_values_of_reports_follow_their_units() -> None:
    assert unit_format("share", 0.5) == "50.0 %"
    assert unit_format("count", 1234) == "1,234"
    assert unit_format("p", 0.04321) == "0.0432"
    assert unit_format("text", "<i>") == "&lt;i&gt;"
    assert unit_format("share", None) == NONE
    assert unit_format("text", "") == NO_NAME


def test_json_is_indented_without_a_loss() -> None:
    assert pretty_json('{"a":[1,0.5]}') == '{\n  "a": [\n    1,\n    0.5\n  ]\n}'
    assert pretty_json({"a": 1}) == '{\n  "a": 1\n}'
    for text in ('{"a":1,"a":2}', '{"b":0.10000000000000000555}', "1E400", "[NaN", "[" * 40 + "]" * 40, "[" * 100_000):
        assert pretty_json(text) == text
    hostile = "[" + ",".join(["[" * 900 + "]" * 900] * 100) + "]"
    assert len(pretty_json(hostile)) == len(hostile), "indentation would multiply its size by a thousand"
