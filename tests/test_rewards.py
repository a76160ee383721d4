"""Reward maps that users write: errors name the part that is wrong."""

import pytest

from schemas.rewards import parse_rewards


@pytest.mark.parametrize("text", ["click=1, purchase=3.5", '{"click": 1, "purchase": 3.5}'])
def test_a_map_is_pairs_or_an_object(text: str) -> None:
    assert parse_rewards(text, 2).rewards == {"click": 1.0, "purchase": 3.5}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f'{{"click": 1{"0" * 400}}}', "reward of click is not a finite number"),
        (f'{{"click": 1{"0" * 5000}}}', "reward of click is not a finite number"),
        (f'{{"click": {"[" * 50_000}', "nested too deep"),
        ('{"click": true}', "reward of click is not a number"),
        ("click=nan", "reward of click is not a finite number"),
        ("click=1,click=5", "'click' is named twice"),
        ('{"click": 1, "click": 5}', "'click' is named twice"),
        ('{"click"', "not JSON"),
        ("love=1", "not an interaction type"),
        ("click", "TYPE=NUMBER"),
    ],
)
def test_an_error_names_the_fault(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_rewards(text)
