"""The benchmark of the console, on little."""

import asyncio
import json
from pathlib import Path

from runtime.process.children import module_command


async def test_the_console_is_measured_and_its_counts_are_those_of_the_tables(tmp_path: Path) -> None:
    """Two parts run on little; `make bench-console QUICK=1` runs the third. Without Chromium its page is left out."""
    options = ["--only", "overview", "live", "--rows", "10000", "--looks", "1", "--rate", "500", "--minutes", "0.1"]
    options += ["--workers", "1", "--folder", str(tmp_path)]
    running = await asyncio.create_subprocess_exec(
        *module_command("benchmarks.console", *options), stdout=asyncio.subprocess.PIPE
    )
    said = (await running.communicate())[0].decode()
    assert running.returncode == 0, said
    found = json.loads((tmp_path / "console.json").read_text())
    overview, live = found["overview"], found["live"]
    assert overview["page"]["script_bytes"] > 0
    assert [each["errors"] for each in overview["panels"]] == [[]] * len(overview["panels"])
    assert (live["difference"], live["browser_difference"] or 0, live["errors"]) == (0, 0, [])
    assert live["table"]["stored"] > live["table"]["duplicate"] > 0
