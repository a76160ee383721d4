"""`tally simulate --days` as a process: a backfill whose truth agrees with the stores."""

import asyncio
import json
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.cli_lab import CLEAN, TALLY
from tests.lab import Lab


async def test_the_counts_of_the_truth_are_those_of_the_stores(lab: Lab, tmp_path: Path) -> None:
    file = tmp_path / "truth.json"
    options = "--days 0.5 --rate 0.1 --bad 0.2 --lift dense=+5% --lift hybrid=-10% --seed 7 --users 100 --wait 0 --json"
    command = [TALLY, "simulate", *options.split(), "--truth", str(file)]
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, env=CLEAN | lab.settings.as_environment(), timeout=120
    )
    assert done.returncode == 0, done.stderr
    truth = json.loads(file.read_text())
    emitted = truth["emitted"]
    assert truth["parameters"]["lifts"] == {"dense": 1.05, "hybrid": 0.9}
    assert json.loads(done.stdout)["accepted"] == emitted["events"]
    counts = await lab.drain()
    assert (counts.stored, counts.duplicates, counts.rejected) == (
        emitted["stored"],
        emitted["duplicates"],
        emitted["rejected"],
    )
    assert emitted["rejected"] > 0
    ((first,),) = await lab.rows("SELECT min(occurred_at) FROM interactions")
    assert first.replace(tzinfo=UTC) > datetime.now(UTC) - timedelta(days=0.6)
