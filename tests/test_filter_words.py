"""Filters as text: short, complete, and readable again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from readers.filter_text import read_filter
from readers.filter_words import MAX_CHARACTERS, filters_text
from readers.filters import Filter

FIELDS = st.sampled_from(["user_id", "feature_id", "metadata.device", r"metadata.a\.b.c", "query_snapshot.text"])
SIGNS = st.sampled_from(["=", "!=", "<", "<=", ">", ">="])
VALUES = st.one_of(
    st.sampled_from(["true", "1", "0.5", "", "a=b", "1,2"]),
    st.text(st.characters(codec="utf-8"), max_size=20).filter(lambda text: text[:1] != "=" and not _is_number(text)),
)


def _is_number(text: str) -> bool:
    """Whether a text may be another spelling of a number: its value is shown in its own spelling, too."""
    return text.strip()[:1] in tuple("-0123456789")


@given(FIELDS, SIGNS, VALUES)
def test_a_comparison_and_its_text_are_one_filter(name: str, sign: str, value: str) -> None:
    found = read_filter(f"{name}{sign}{value}")
    shown = filters_text(found)
    assert read_filter(shown.replace(f"{name} {sign} ", f"{name}{sign}", 1)) == found


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("metadata.device=ios", "metadata.device = ios"),
        ("metadata.count!=3", "metadata.count != 3"),
        ("position<=5", "position <= 5"),
        ("occurred_at>=2026-11-01", "occurred_at >= 2026-11-01T00:00:00.000Z"),
        ('{"user_id": ["ada", "bob"], "position": {"gte": 1}}', "user_id in (ada, bob) and position >= 1"),
        ('{"OR": [{"user_id": "a"}, {"session_id": null, "position": 2}]}', "(user_id = a or (session_id is null and "),
        ('{"NOT": [{"field": "metadata.x", "operator": "starts_with", "value": "y"}]}', "not metadata.x starts with y"),
        ("{}", ""),
    ],
)
def test_filters_are_shown(text: str, shown: str) -> None:
    assert filters_text(read_filter(text)).startswith(shown)
    assert bool(filters_text(read_filter(text))) == bool(shown)


def test_a_long_text_is_cut() -> None:
    found: Filter = read_filter('{"user_id": [' + ", ".join(f'"user-{number}"' for number in range(900)) + "]}")
    assert len(filters_text(found)) == MAX_CHARACTERS
