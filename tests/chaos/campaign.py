"""`make chaos RUNS=1000 SEED=7`: many runs, with progress; stops and continues where it was."""

import argparse
import asyncio
import hashlib
import json
import logging
import subprocess
import sys
import tempfile
import time
from collections import Counter
from functools import cache
from pathlib import Path

from rich.console import Console

from consumers.failpoints import FAILPOINTS
from deploy.embedded.stack import Stack
from runtime.process.children import module_command
from runtime.settings import Settings
from tests.chaos.controls import CONTROLS
from tests.chaos.plan import FAULTS, RESTART, plan
from tests.chaos.result import Result
from tests.chaos.run import Run

POLL_S = 2.0
ATTEMPTS = 3


def main() -> None:
    """Run the campaign, or as a shard the runs that fall to it."""
    parser = argparse.ArgumentParser(
        prog="make chaos",
        description=__doc__,
        epilog="Examples: make chaos RUNS=1000 SEED=7; make chaos ARGS='--only 17'; "
        "make chaos RUNS=40 ARGS='--control skip-by-maximum'",
    )
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=4, help="processes, each with a stack of its own")
    parser.add_argument("--only", type=int, help="this run alone: how a failing one is looked at")
    parser.add_argument("--control", choices=sorted(CONTROLS), help="break a promise; the campaign must notice")
    parser.add_argument("--folder", type=Path, default=Path(".tally/chaos"), help="results, and logs of failed runs")
    parser.add_argument("--shard", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.shard is not None or options.only is not None:
        sys.exit(asyncio.run(_shard(options)))
    sys.exit(_campaign(options))


def _results_path(options: argparse.Namespace) -> Path:
    control = f"-{options.control}" if options.control else ""
    return Path(options.folder) / f"seed-{options.seed}{control}-{_code()}.jsonl"


@cache
def _code() -> str:
    """Return an id of the tested code: results of other code do not count."""
    hashed = hashlib.blake2b(digest_size=4)
    for folder in ("schemas", "kernels", "runtime", "consumers", "learning/weights", "tests/chaos", "tests/hostile"):
        for path in sorted((Path(__file__).parents[2] / folder).rglob("*")):
            if path.suffix in (".py", ".lua"):
                hashed.update(path.read_bytes())
    return hashed.hexdigest()


def _results(options: argparse.Namespace) -> dict[int, Result]:
    path = _results_path(options)
    lines = path.read_text().splitlines() if path.exists() else []
    return {result.number: result for result in (Result(**json.loads(line)) for line in lines)}


async def _shard(options: argparse.Namespace) -> int:
    logging.basicConfig(level=logging.CRITICAL)
    numbers = [options.only] if options.only is not None else range(options.shard, options.runs, options.jobs)
    done = {} if options.only is not None else _results(options)
    failed = 0
    with tempfile.TemporaryDirectory() as folder, Stack(Settings(data_dir=Path(folder))) as stack:
        for number in numbers:
            if number in done:
                continue
            result = await _until_met(options, stack, number)
            failed += bool(result.problems)
            if options.only is None:
                with _results_path(options).open("a") as file:
                    file.write(json.dumps(result._asdict()) + "\n")
            else:
                Console().print_json(data=result._asdict())
    return 1 if failed else 0


async def _until_met(options: argparse.Namespace, stack: Stack, number: int) -> Result:
    """Run until the fault has met its failpoint: on a slow machine the worker may not come to it in time."""
    planned = plan(number, options.seed, sample=bool(options.control))
    for _ in range(ATTEMPTS):
        run = Run(planned, stack, options.folder, options.control)
        try:
            result = await run.execute()
        except Exception as error:  # any error fails this run, and the next one must still run
            result = run.failed(error)
        if not result.problems and options.only is None:
            run.log_path.unlink(missing_ok=True)
        if result.met or result.problems:
            break
    return result


def _campaign(options: argparse.Namespace) -> int:
    begun, console = time.monotonic(), Console(stderr=True)
    before = len(_results(options))
    shards = [
        subprocess.Popen(module_command("tests.chaos", *sys.argv[1:], "--shard", str(number)))
        for number in range(options.jobs)
    ]
    shown = -1
    try:
        while any(shard.poll() is None for shard in shards):
            time.sleep(POLL_S)
            results = _results(options)
            if len(results) // 10 > shown:
                shown = len(results) // 10
                failed = [result.number for result in results.values() if result.problems]
                minutes = (time.monotonic() - begun) / 60
                console.print(f"{len(results)} of {options.runs} runs, {minutes:.1f} min, failed: {failed or 'none'}")
    except KeyboardInterrupt:
        for shard in shards:
            shard.terminate()
        console.print("stopped; the same command continues from here")
        return 130
    results = _results(options)
    _report(Console(), options, results, time.monotonic() - begun, before)
    complete = len(results) >= options.runs and all(shard.returncode in (0, 1) for shard in shards)
    has_failed = any(result.problems for result in results.values())
    return 0 if complete and has_failed == bool(options.control) else 1


def _report(
    console: Console, options: argparse.Namespace, results: dict[int, Result], took_s: float, before: int
) -> None:
    met = Counter((result.failpoint, result.fault) for result in results.values() if result.met)
    pairs = [(failpoint, fault) for failpoint in FAILPOINTS for fault in (*FAULTS, RESTART)]
    rarest = min(pairs, key=lambda pair: met[pair])
    failed = sorted(result.number for result in results.values() if result.problems)
    records = sum(result.records for result in results.values())
    hostile = sum(result.hostile_batches for result in results.values())
    restarts = sum(result.fault == RESTART for result in results.values())
    console.print(
        f"seed {options.seed}: {len(results)} runs ({len(results) - before} now, in {took_s / 60:.1f} min), "
        f"{records:,} records, {hostile:,} hostile batches, {sum(met.values())} faults met, "
        f"{sum(each.kills for each in results.values())} kills, {restarts} restarts of parts"
    )
    for title, counts in (
        ("at failpoint", Counter(failpoint for (failpoint, _), n in met.items() for _ in range(n))),
        ("by fault", Counter(fault for (_, fault), n in met.items() for _ in range(n))),
    ):
        console.print(f"{title}: " + ", ".join(f"{name} {count}" for name, count in sorted(counts.items())))
    console.print(f"rarest pair: {rarest[0]} x {rarest[1]}, met {met[rarest]} times")
    console.print(f"failed: {len(failed)} {failed if failed else ''}")
    for number in failed[:10]:
        console.print(
            f"  run {number} ({results[number].failpoint} x {results[number].fault}): {results[number].problems[0]}"
        )
