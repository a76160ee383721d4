"""`make bench-training`: export of a training set beside a plain SELECT of the same columns, both to Parquet.

The events are those of `make bench-reports`: ten results an execution. The command runs as a process of its own.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from benchmarks import command, report_rows
from benchmarks.meter import reset_peak, usage
from deploy.embedded.stack import Stack
from runtime.clickhouse import ClickHouse
from runtime.settings import Settings
from schemas.analytics.base import RANGE
from schemas.tables import INTERACTIONS

MIB = 1024 * 1024
TIMEOUT_S = 3_600
EVENTS_PER_RESULT = 1.1
POLL_S = 0.05
_UNTIL = report_rows.BEGIN + timedelta(days=366)
_PLAIN = f"""
SELECT feature_id, execution_id, position, document_score, CAST(interaction_type, 'Array(String)') AS types, event_time
FROM {INTERACTIONS} FINAL WHERE {RANGE} AND retriever_id = {{retriever:String}} FORMAT Parquet"""


class ExportCost(NamedTuple):
    """Cost of one export."""

    name: str
    rows: int
    seconds: float
    bytes: int
    client_peak_bytes: int
    """Peak memory of the command; 0 for the plain SELECT."""
    server_peak_bytes: int
    """Peak memory of the ClickHouse process, its caches included."""


async def export(stack: Stack, settings: Settings, output: Path, name: str, *options: str) -> ExportCost:
    """Run `tally export training`."""
    pid = stack.pid("clickhouse")
    reset_peak(pid)
    arguments = [
        *(str(Path(sys.executable).parent / "tally"), "export", "training", "--retriever", report_rows.RETRIEVERS[0]),
        *("--since", report_rows.BEGIN.isoformat(), "--until", _UNTIL.isoformat(), "--output", str(output)),
        *("--json", "--force", *options),
    ]
    begun = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        *arguments, env=settings.as_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    running = asyncio.create_task(process.communicate())
    peak = 0
    while not running.done():
        peak = max(peak, usage(process.pid).peak_bytes)
        await asyncio.wait([running], timeout=POLL_S)
    out, err = running.result()
    if process.returncode:
        raise RuntimeError(err.decode(errors="replace"))
    seconds, found = time.perf_counter() - begun, json.loads(out)
    size = sum(file["bytes"] for file in found["files"])
    return ExportCost(name, found["counts"]["rows"], seconds, size, peak, usage(pid).peak_bytes)


async def select(stack: Stack, database: ClickHouse) -> ExportCost:
    """Run the plain SELECT: the events as they are stored, neither grouped nor sorted."""
    pid = stack.pid("clickhouse")
    reset_peak(pid)
    bounds = {
        "namespace": report_rows.NAMESPACE,
        "since": report_rows.BEGIN.strftime("%Y-%m-%d %H:%M:%S"),
        "until": _UNTIL.strftime("%Y-%m-%d %H:%M:%S"),
        "retriever": report_rows.RETRIEVERS[0],
    }
    ((rows,),) = await database.rows(
        f"SELECT count() FROM {INTERACTIONS} FINAL WHERE {RANGE} AND retriever_id = {{retriever:String}}", bounds
    )
    begun, size = time.perf_counter(), 0
    async with database.stream(_PLAIN, bounds, settings={}, timeout_s=TIMEOUT_S) as pieces:
        async for piece in pieces:
            size += len(piece)
    seconds = time.perf_counter() - begun
    return ExportCost("SELECT ... FORMAT Parquet (events)", rows, seconds, size, 0, usage(pid).peak_bytes)


async def run(options: argparse.Namespace) -> list[ExportCost]:
    """Generate the events, and measure each export."""
    found: list[ExportCost] = []
    with command.temporary_stack(options.folder) as stack:
        settings = command.named(stack, "training", report_timeout_ms=TIMEOUT_S * 1000)
        async with command.installed(settings) as database:
            events = round(options.results * EVENTS_PER_RESULT * len(report_rows.RETRIEVERS))
            async for rows in report_rows.fill(database, events):
                print(f"{rows:,} events", file=sys.stderr, flush=True)
            output = options.folder / "training.out"
            for _ in range(options.rounds):
                found.append(await select(stack, database))
                for name in ("parquet", "libsvm"):
                    found.append(
                        await export(stack, settings, output, f"tally export training, {name}", "--format", name)
                    )
                    print(found[-1], file=sys.stderr, flush=True)
            for file in options.folder.glob("training.out*"):
                file.unlink()
    return found


def main() -> None:
    """Run the benchmark."""
    parser = command.parser_of("bench-training", __doc__, "ARGS='--results 200000'")
    parser.add_argument(
        "--results", type=command.at_least(1_000, int), default=10_000_000, help="results of the exported retriever"
    )
    parser.add_argument("--rounds", type=command.at_least(1, int), default=1)
    options = parser.parse_args()
    found = asyncio.run(run(options))
    command.show(
        ["export", "rows", "s", "rows/s", "MiB", "peak MiB, command", "peak MiB, ClickHouse"],
        [
            (
                cost.name,
                f"{cost.rows:,}",
                f"{cost.seconds:.1f}",
                f"{cost.rows / cost.seconds:,.0f}",
                f"{cost.bytes / MIB:,.1f}",
                f"{cost.client_peak_bytes / MIB:,.0f}" if cost.client_peak_bytes else "-",
                f"{cost.server_peak_bytes / MIB:,.0f}",
            )
            for cost in found
        ],
    )
    command.save(options.folder, "training", [cost._asdict() for cost in found])


if __name__ == "__main__":
    main()
