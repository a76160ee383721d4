"""The rule, end to end: for any log, batches and crashes, each event has the outcome of the reference."""

import random

from hypothesis import Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from consumers import failpoints
from tests.chaos.traffic import NARROWED, WINDOW_MS, Traffic
from tests.chaos.verify import problems_of
from tests.crashes import crash_if_reached
from tests.lab import Lab

RECORDS = 120


crashes = st.lists(st.tuples(st.sampled_from(failpoints.FAILPOINTS), st.integers(1, 3)), max_size=4)


@given(st.integers(0, 2**32), st.integers(1, RECORDS), crashes)
# Without shrinking: the log grows with each example, so a failure would be repeated for hours.
@hypothesis_settings(max_examples=8, phases=(Phase.explicit, Phase.generate))
async def test_every_outcome_follows_the_rule_after_any_crash(
    lab: Lab, seed: int, rows: int, planned: list[tuple[str, int]]
) -> None:
    """One log grows from example to example, and crashing workers read it in batches of any size."""
    lab.settings = lab.settings.model_copy(update={"dedup_window_ms": WINDOW_MS, "claim_slack_ms": 1_500})
    await lab.database.command(NARROWED)
    traffic = Traffic(random.Random(seed))
    for _ in range(RECORDS):
        await lab.put(**traffic.record()._asdict())
    for failpoint, passes in planned:
        with crash_if_reached(failpoint, passes):
            await lab.drain(batch_rows=rows)
    await lab.drain(batch_rows=rows)
    assert not await problems_of(lab.settings, lab.database, narrowed=True, must_reject={})
