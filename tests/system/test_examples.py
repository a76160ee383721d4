"""Examples of the documents, run as processes as they stand there."""

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

from producers.simulation.simulator import Simulator
from producers.simulation.timeline import Backfill
from schemas.analytics.catalogue import REPORTS
from tests.analytics.loading import load
from tests.http_lab import KEY, consuming, served, with_key
from tests.lab import Lab
from tests.test_docs import ROOT, blocks


def run(command: list[str], lab: Lab, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run a command with the environment's commands on the path."""
    scripts = str(Path(sys.executable).parent)
    environment = {**os.environ, **lab.settings.as_environment(), "PATH": f"{scripts}:{os.environ['PATH']}"}
    return subprocess.run(
        command, check=False, capture_output=True, text=True, env=environment, cwd=folder, timeout=600
    )


async def test_the_python_example_emits_an_event(lab: Lab) -> None:
    (example,) = blocks("README.md", "python")
    done = await asyncio.to_thread(run, [sys.executable, "-c", example], lab, ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("int_")
    await lab.drain()
    rows = await lab.rows("SELECT feature_id, user_id FROM interactions ORDER BY feature_id")
    assert rows == [("doc-0", None), ("doc-1", None), ("doc-17", "ada"), ("doc-2", None)]


async def test_the_example_of_another_client_uses_the_partition_of_the_key(lab: Lab) -> None:
    (example,) = blocks("docs/wire.md", "python")
    done = await asyncio.to_thread(run, [sys.executable, "-c", example], lab, ROOT)
    assert done.returncode == 0, done.stderr
    counts = await lab.drain()
    assert (counts.stored, counts.moved) == (1, 0)


async def test_the_first_tasks_of_the_readme_run(lab: Lab, tmp_path: Path) -> None:
    (tasks,) = blocks("README.md", "bash")
    settings = with_key(lab.settings, read_wait_ms=60_000, delivery_timeout_ms=60_000, api_namespaces=("default",))
    await load(lab.database, "default", Simulator(1, duplicates=0, backfill=Backfill(1, 0.02)))  # as `make up` has
    async with served(settings) as url, consuming(lab.settings):
        here = tasks.replace("http://127.0.0.1:8080", url).replace("curl -s", "curl -sS --fail")
        script = f"set -e\nexport TALLY_API_KEY={KEY}\n{here}"
        done = await asyncio.to_thread(run, ["/bin/sh", "-c", script], lab, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('"feature_id":"doc-17"') == 3, "once by id, twice in the list (results, items)"
    assert "What do people search for, and where does search fail?" in done.stdout
    assert "Audit of" in done.stdout


async def test_the_tour_of_commands_runs(lab: Lab, tmp_path: Path) -> None:
    (tour,) = blocks("docs/commands.md", "bash")
    # Nothing consumes while the first commands run, so none of them may wait for verdicts.
    script = "set -e\n" + re.sub(r"^(tally (?:import \S+|simulate)) ", r"\1 --wait 0 ", tour, flags=re.MULTILINE)
    done = await asyncio.to_thread(run, ["/bin/sh", "-c", script], lab, tmp_path)
    await lab.database.command("DROP DATABASE IF EXISTS tally_again")
    assert done.returncode == 0, done.stderr
    assert "outcomes are the same, 0 are not" in done.stdout
    assert "open-bandit bts/women: 10,000 accepted" in done.stdout
    assert len(re.findall(r"simulated: [\d,]+ accepted", done.stdout)) == 2
    for report in REPORTS.values():
        assert report.question in done.stdout, "the list of reports names it"
        assert f"tally report {report.name}" in tour
    assert all((tmp_path / name).exists() for name in ("positions.png", "devices.csv", "sessions.parquet"))
    assert await lab.count("interactions") > 10_000
