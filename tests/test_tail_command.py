"""Lines of `tally tail`: their parts, and their width on a terminal."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from consumers.records import PlainRecord
from tally.cli.tail import line_of
from tally.tail import TailEvent, _seen
from tests.lab import as_json

EVENT: dict[str, Any] = {
    "timestamp": "2026-11-22T14:30:00.123Z",
    "partition": 3,
    "offset": 4309,
    "namespace": "default",
    "interaction_id": "int_0198b2c0a1b27c3d8e4f5061728394a5",
    "verdict": "stored",
    "interaction_type": ["click"],
    "query": "running shoes",
    "position": 2,
    "retriever_id": "hybrid",
    "feature_id": "doc-17",
}
Text = st.text(min_size=1, max_size=300)


def test_a_line_shows_what_happened_to_an_event() -> None:
    event = TailEvent(**EVENT)
    assert line_of(event, "default", 80) == (
        '14:30:00.123 stored    click      "running shoes" hybrid doc-17 #2 728394a5'
    )
    assert line_of(event, "default", None).endswith(f" #2 {event.interaction_id}")


@pytest.mark.parametrize(
    ("more", "end"),
    [
        ({"verdict": "duplicate", "duplicate_of": "int_0198b2c0a1b27c3d8e4f506100000000"}, " 728394a5 of 00000000"),
        ({"verdict": "rejected", "reason": "not_json"}, " 728394a5 not_json"),
        ({"namespace": "shop"}, " 728394a5 namespace shop"),
        ({"interaction_id": None, "verdict": None}, " #2 3/4309"),
    ],
)
def test_a_line_ends_with_unusual_details(more: dict[str, Any], end: str) -> None:
    assert line_of(TailEvent(**EVENT | more), "default", 100).endswith(end)


def test_texts_are_shortened_only_on_a_terminal() -> None:
    event = TailEvent(**EVENT | {"query": "q" * 200, "retriever_id": "short"})
    assert "q" * 200 in line_of(event, "default", None)
    line = line_of(event, "default", 80)
    assert (cell_len(line), "qq… short doc-17 #2 728394a5" in line) == (80, True)


@given(Text, Text, Text, Text, st.integers(80, 200))
def test_a_line_fits_the_terminal_and_controls_nothing(
    query: str, retriever: str, feature: str, of: str, width: int
) -> None:
    texts = {"query": query, "retriever_id": retriever, "feature_id": feature, "namespace": of}
    line = line_of(TailEvent(**EVENT | texts), "default", width)
    assert cell_len(line) <= width
    assert not {"\x1b", "\n", "\r", "\u202e"} & set(line)


def test_an_event_has_its_query_position_and_retriever() -> None:
    fields: dict[str, Any] = {
        "query_snapshot": {"text": "running\tshoes", "top_k": 20},
        "retriever_id": "hybrid",
        "position": 4,
    }
    seen = _seen(0, PlainRecord(1, 0, None, as_json("doc-1", **fields), ()), "default")
    assert (seen.query, seen.position, seen.retriever_id) == ("running\tshoes", 4, "hybrid")


@pytest.mark.parametrize("snapshot", [b"null", b"{}", b'{"text": null}', b'{"text": ["a"]}'])
def test_a_snapshot_without_a_text_hides_no_event(snapshot: bytes) -> None:
    value = as_json("doc-1")[:-1] + b', "query_snapshot": ' + snapshot + b"}"
    seen = _seen(0, PlainRecord(1, 0, None, value, ()), "default")
    assert (seen.feature_id, seen.query) == ("doc-1", None)
