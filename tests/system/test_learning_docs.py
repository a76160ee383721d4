"""Every step of docs/learning.md runs, on fewer events than the page uses, and ends with a better ranking."""

import asyncio
import json
import shlex
import subprocess
import sys
from pathlib import Path

from deploy.embedded.stack import Stack
from producers.simulation.simulator import Simulator
from producers.simulation.timeline import Backfill
from tests.analytics.loading import load
from tests.cli_lab import TALLY, environment
from tests.lab import lab_of, settings_of_its_own
from tests.test_docs import blocks

PAGE = "docs/learning.md"
DAYS, RATE = 28, 0.06
"""About 145,000 events, a quarter of the page's."""
LINES = [
    line.removeprefix("$ ")
    for block in blocks(PAGE, "console")
    if "fused_search.py" not in block  # tests/test_fused_search.py runs it
    for line in block.splitlines()
    if line.startswith("$ ")
]


async def test_the_steps_lead_to_a_better_ranking(stack: Stack, tmp_path: Path) -> None:
    assert LINES[0].startswith(f"tally simulate --days {DAYS} ")
    program, _ = blocks(PAGE, "python")
    (tmp_path / "rerank.py").write_text(program)
    async with lab_of(settings_of_its_own(stack, tmp_path / "settings")) as lab:
        await load(lab.database, "shop", Simulator(1, duplicates=0, backfill=Backfill(DAYS, RATE)))
        outputs = {line: await run(line, tmp_path, environment(lab.settings)) for line in LINES[1:]}
        await lab.database.command(f"DROP DATABASE {lab.settings.database}")
    failed = {line: (done.returncode, done.stderr) for line, done in outputs.items() if done.returncode}
    # A quarter of the events may not be enough to tell two good models apart.
    assert [line for line in failed if "--baseline click.json" not in line] == []
    assert any("passed: ndcg@10 rose" in done.stdout + done.stderr for done in outputs.values())
    assert any("the log gives the same bytes" in done.stdout + done.stderr for done in outputs.values())
    truth = json.loads((tmp_path / "truth.json").read_text())
    assert len(truth) > 40
    assert (tmp_path / "keyword.png").stat().st_size > 10_000


async def run(line: str, folder: Path, env: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    """Run a line of the page in a folder."""
    program, *arguments = shlex.split(line)
    if arguments[0] == "simulate":
        arguments += ["--wait", "0"]
    command = [{"tally": TALLY, "python": sys.executable}[program], *arguments]
    return await asyncio.to_thread(
        subprocess.run, command, cwd=folder, env=env, capture_output=True, text=True, timeout=120, check=False
    )
