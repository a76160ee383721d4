"""The benchmarks run, on little: their figures mean nothing here."""

import asyncio
import json
import re
from pathlib import Path

import pytest

from benchmarks import environments, throughput
from benchmarks.throughput import SystemRun, Turn
from deploy.embedded import jars
from runtime.process.children import module_command
from schemas.analytics.catalogue import REPORTS


async def test_tally_and_the_naive_loop_are_measured_side_by_side(tmp_path: Path) -> None:
    """Run `make bench QUICK=1` without the peers that download an environment. A peer without one is skipped."""
    command = module_command("benchmarks.throughput", "--quick", "--only", "1", "5", "8", "--folder", str(tmp_path))
    running = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    said = (await running.communicate())[0].decode()
    assert running.returncode == 0, said
    assert "audit balances" in said
    assert "connect is skipped: " in said
    assert said.splitlines()[-1].startswith("ratio: naive ")
    assert (tmp_path / "throughput.png").stat().st_size > 10_000
    ((tally, naive),) = json.loads((tmp_path / "throughput.json").read_text())["rounds"]
    assert (tally["system"], naive["system"]) == ("tally, 2 workers", "naive loop")


def test_a_peer_that_cannot_be_prepared_is_skipped_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Java is no requirement of the other systems, and the sink's jar is on no registry."""
    monkeypatch.setenv("PATH", str(tmp_path))
    turns = [Turn("flink"), Turn(""), Turn("connect"), Turn("naive"), Turn("naive")]
    assert list(throughput.prepared(turns, tmp_path, tmp_path)) == ["naive"]
    assert capsys.readouterr().out.splitlines() == [
        "flink is skipped: no java on the PATH: install a JDK, 17 or newer",
        "connect is skipped: no java on the PATH: install a JDK, 17 or newer",
    ]
    (tmp_path / "java").touch(mode=0o755)
    assert not throughput.prepared([Turn("connect")], tmp_path, tmp_path)
    said = capsys.readouterr().out
    assert "the sink is not on Maven Central" in said
    assert str(tmp_path / "connect-plugins") in said


def test_kafka_connect_has_the_version_of_the_embedded_kafka() -> None:
    """The lock file has only the jars that Kafka's lacks, so the two must be pinned together."""
    kafka = jars.pinned_jars(jars.LOCK_FILE)
    connect = jars.pinned_jars(environments.PEERS / "connect-jars.txt")
    assert len({jar.version for jar in (*kafka, *connect) if jar.group == "org.apache.kafka"}) == 1
    assert not {jar.artifact for jar in kafka} & {jar.artifact for jar in connect}


def test_ratios_compare_with_the_better_run_of_a_peer(capsys: pytest.CaptureFixture[str]) -> None:
    """CPU is that of all processes: a peer may leave most of its work to ClickHouse."""
    runs = [
        SystemRun("tally, 2 workers", 1_000, 1.0, 0.0, {"worker": 5.0, "clickhouse": 5.0}),
        SystemRun("quix, 1 process", 250, 1.0, 0.0, {"worker": 30.0, "clickhouse": 10.0}),
        SystemRun("quix, 2 processes", 500, 1.0, 0.0, {"worker": 50.0, "clickhouse": 10.0}),
    ]
    assert throughput.report([runs]) == {"events": {"quix": 2.0}, "cpu": {"quix": 4.0}}
    assert capsys.readouterr().out.splitlines()[-2:] == ["ratio of CPU: quix 4.00", "ratio: quix 2.00"]


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


async def test_each_report_is_measured_over_a_day_a_week_and_the_year(tmp_path: Path) -> None:
    """Every report of the catalogue has its cost, and the table can be pasted into a document."""
    options = ["--rows", "60000", "--rounds", "1", "--folder", str(tmp_path)]
    command = module_command("benchmarks.reports", *options)
    running = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    said = (await running.communicate())[0].decode()
    assert running.returncode == 0, said
    found = json.loads((tmp_path / "reports.json").read_text())
    assert [(each["range"], each["report"]) for each in found] == [
        (name, report) for name in ("day", "week", "year") for report in REPORTS
    ]
    assert [each["error"] for each in found] == [""] * len(found)
    assert all(each["ms"]["p50"] > 0 and each["ratio"] > 0 and each["peak_bytes"] > 0 for each in found)
    read = {(each["range"], each["report"]): each["rows_read"] for each in found}
    assert read["year", "types"] == 60_000 > read["day", "types"] > 0
    head, rule, *lines = said.splitlines()
    assert head.startswith("| report | range | runs | p50 ms | p99 ms | of count |")
    assert {line.count("|") for line in (head, rule, *lines)} == {11}
    assert len(lines) == len(found)


async def test_session_signals_are_measured_with_and_without_configurations(tmp_path: Path) -> None:
    """Only events of configured retrievers cost Redis anything."""
    command = module_command("benchmarks.sessions", "--quick", "--folder", str(tmp_path))
    running = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    said = (await running.communicate())[0].decode()
    assert running.returncode == 0, said
    assert said.count("audit balances") == 3
    assert re.search(r"round 1: all: .* bytes a session in Redis", said)
    (readings,) = json.loads((tmp_path / "sessions.json").read_text())["rounds"]
    assert [each["system"] for each in readings] == ["none", "other", "all"]
