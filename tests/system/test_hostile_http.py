"""Hostile HTTP against a real API process. After each case it serves, has answered no 500, and has grown by little."""

from collections.abc import AsyncIterator, Callable

import pytest

from deploy.embedded.stack import Stack
from tests.hostile.http_cases import CASES
from tests.hostile.http_target import Case, Target, http_target, run_case
from tests.lab import settings_of_its_own


@pytest.fixture(scope="module")
async def target(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Target]:
    folder = tmp_path_factory.mktemp("hostile")
    async with http_target(settings_of_its_own(stack, folder), folder) as target:
        yield target


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
async def test_the_api_withstands_an_attack_over_http(
    target: Target, case: Case, record_property: Callable[[str, object], None]
) -> None:
    seen = await run_case(target, case)
    for name, value in seen._asdict().items():
        record_property(name, value)
