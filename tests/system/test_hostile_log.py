"""Hostile batches on a real broker: a worker lives, others' events are stored, and every offset is accounted for."""

from random import Random

import pytest

from tests.hostile.log_cases import CASES
from tests.lab import Lab


@pytest.mark.parametrize("name", CASES)
async def test_a_worker_withstands_an_attack_through_the_log(lab: Lab, name: str) -> None:
    """The statement in the case's docstring holds."""
    attack = await CASES[name](lab, Random(name))
    assert attack.tries
