"""The benchmarks run, on little: their figures mean nothing here."""

import asyncio
import json
import re
from pathlib import Path

from runtime.process.children import module_command


async def test_tally_and_the_naive_loop_are_measured_side_by_side(tmp_path: Path) -> None:
    """Run `make bench QUICK=1` without the peers that need separate environments."""
    command = module_command("benchmarks.throughput", "--quick", "--only", "1", "5", "--folder", str(tmp_path))
    running = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    said = (await running.communicate())[0].decode()
    assert running.returncode == 0, said
    assert "audit balances" in said
    assert said.splitlines()[-1].startswith("ratio: naive ")
    assert (tmp_path / "throughput.png").stat().st_size > 10_000
    ((tally, naive),) = json.loads((tmp_path / "throughput.json").read_text())["rounds"]
    assert (tally["system"], naive["system"]) == ("tally, 2 workers", "naive loop")


async def test_claims_are_measured_as_chunks_and_as_plain_keys(tmp_path: Path) -> None:
    """The benchmark checks the number of duplicates that each method finds."""
    options = ["--claims", "60000", "--batches", "2", "--folder", str(tmp_path)]
    command = module_command("benchmarks.claims", *options)
    running = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    said = (await running.communicate())[0].decode()
    assert running.returncode == 0, said
    found = json.loads((tmp_path / "claims.json").read_text())
    assert {(each["way"], each["kind"]) for each in found} == {
        (way, kind) for way in ("chunks", "plain keys") for kind in ("all new", "5 % recent", "5 % of all ages")
    }


async def test_lookups_are_measured_however_short_the_time(tmp_path: Path) -> None:
    """Measurements while events are written end by time, so they never outlast the writes."""
    options = ["--rows", "2000", "1000", "--write", "500", "--seconds", "2", "--tries", "100000"]
    command = module_command("benchmarks.lookup", *options, "--folder", str(tmp_path))
    running = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    said = (await running.communicate())[0].decode()
    assert running.returncode == 0, said
    found = json.loads((tmp_path / "lookup.json").read_text())
    assert [(each["rows"], each["writing_per_s"]) for each in found] == [(1000, 0), (1000, 500), (2000, 0), (2000, 500)]
    assert all(each["calls"] > 0 and each["per_s"] > 0 for each in found)
    assert set(re.findall(r"(\d+) moved", said)) == {"0"}, "the load is on the partitions of its keys"
