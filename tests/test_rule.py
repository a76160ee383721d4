"""The rule, end to end: whatever the log, the batches and the crashes, each event's outcome is the reference's."""

import contextlib
import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from consumers import failpoints
from tests.chaos.traffic import NARROWED, WINDOW_MS, Traffic
from tests.chaos.verify import problems_of
from tests.lab import Lab

RECORDS = 120


class _Crashed(BaseException):
    """Simulated end of the process, which no error handler may catch."""


@pytest.fixture(autouse=True)
def _no_hook_is_left() -> Iterator[None]:
    yield
    failpoints.install(failpoints.pass_on)


def crash_at(failpoint: str, passes: int) -> None:
    """Raise at the n-th pass of the pipeline through this failpoint."""
    left = passes

    async def hook(name: str) -> None:
        nonlocal left
        left -= name == failpoint
        if left == 0:
            left = -1
            raise _Crashed

    failpoints.install(hook)


crashes = st.lists(st.tuples(st.sampled_from(failpoints.FAILPOINTS), st.integers(1, 3)), max_size=4)


async def test_every_outcome_is_the_rules_whatever_crashes(lab: Lab) -> None:
    """One log grows from example to example, and crashing workers read it in batches of any size."""
    examples: list[tuple[int, int, list[tuple[str, int]]]] = []

    @given(st.integers(0, 2**32), st.integers(1, RECORDS), crashes)
    @hypothesis_settings(max_examples=8)
    def collect(seed: int, rows: int, planned: list[tuple[str, int]]) -> None:
        examples.append((seed, rows, planned))

    collect()
    own = {"dedup_window_ms": WINDOW_MS, "claim_slack_ms": 1_500}
    lab.settings = lab.settings.model_copy(update=own)
    await lab.database.command(NARROWED)
    for seed, rows, planned in examples:
        traffic = Traffic(random.Random(seed))
        for _ in range(RECORDS):
            raw = traffic.record()
            await lab.put(**raw._asdict())
        for failpoint, passes in planned:
            crash_at(failpoint, passes)
            with contextlib.suppress(_Crashed):
                await lab.drain(batch_rows=rows)
        failpoints.install(failpoints.pass_on)
        await lab.drain(batch_rows=rows)
    assert not await problems_of(lab.settings, lab.database, narrowed=True, must_reject={})
