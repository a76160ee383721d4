"""Lines of JSON as input of `tally emit`: an object over several lines, or an array, is one error."""

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.lines import Line, read_lines
from schemas.interaction import Interaction
from schemas.rejection import Rejection

EVENT = {"feature_id": "d", "interaction_type": ["click", "view"], "position": 0, "metadata": {"a": [{"b": '"}'}]}}
GOOD = json.dumps(EVENT)


def lines_of(text: str) -> list[Line]:
    return list(read_lines(io.BytesIO(text.encode())))


def messages(text: str) -> list[tuple[int, str]]:
    """Number and message of each rejection; an empty message for an interaction."""
    found = ((number, content) for number, content in lines_of(text))
    return [(number, content.message if isinstance(content, Rejection) else "") for number, content in found]


@pytest.mark.parametrize("indent", [0, 2])
def test_an_object_over_several_lines_is_one_error(indent: int) -> None:
    pretty = json.dumps(EVENT, indent=indent)
    last = pretty.count("\n") + 1
    why = f"one object per line: lines 1 to {last} are one (jq -c . joins them)"
    assert messages(f"{pretty}\n{pretty}\n") == [(1, why)]


def test_a_later_object_over_several_lines_does_not_end_the_input() -> None:
    pretty = json.dumps(EVENT, indent=2)
    last = 2 + pretty.count("\n")
    why = f"one object per line: lines 2 to {last} are one (jq -c . joins them)"
    assert messages(f"{GOOD}\n{pretty}\n{GOOD}\n") == [(1, ""), (2, why), (last + 1, "")]


@pytest.mark.parametrize("indent", [None, 2])
def test_an_array_is_one_error(indent: int | None) -> None:
    ((number, message),) = messages(json.dumps([EVENT, EVENT], indent=indent))
    assert (number, message) == (1, "one object per line: this is an array (jq -c '.[]' splits it)")
    assert messages(f"[\n{GOOD},\n{GOOD}\n]\n") == [(number, message)]


def test_a_line_that_was_cut_off_is_one_error_and_hides_no_other_line() -> None:
    cut = GOOD[: GOOD.index('"position')]
    for before in ([], [GOOD]):
        found = messages("\n".join([*before, cut, GOOD, cut, "no json", GOOD]))
        accepted = [number for number, message in found if not message]
        assert accepted == [*range(1, len(before) + 1), len(before) + 2, len(before) + 5]
    refused, unknown, accepted_message = messages("\n".join([cut, '{"a": 1}', GOOD]))
    assert refused[1] and unknown[1] and not accepted_message[1]


Entry = st.fixed_dictionaries({"feature_id": st.text(min_size=1), "metadata": st.dictionaries(st.text(), st.text())})


@given(st.lists(Entry), st.lists(st.sampled_from(["", "  ", "no json", "{}", '"', "}{"]), max_size=5))
def test_every_object_on_a_line_of_its_own_is_read(events: list[dict[str, Any]], others: list[str]) -> None:
    plain = {"interaction_type": ["click"], "position": 0}
    events = [event | plain for event in events]
    found = lines_of("\n".join([*map(json.dumps, events), *others, *map(json.dumps, events)]))
    read = [content for _, content in found if isinstance(content, Interaction)]
    assert [each.feature_id for each in read] == [event["feature_id"] for event in events] * 2
