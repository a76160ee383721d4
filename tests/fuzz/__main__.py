"""`make fuzz`: damaged record values and record batches, read between guard pages and with bounds checks.

What is found is printed with the command that does it again. Every example depends on the seed and its number only.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

from tests.fuzz.runner import JOBS, Job, Result, Runner

STATE = Path(".tally") / "fuzz.json"


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    names = [job.name for job in JOBS]
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5, help="How long, over all parts together.")
    parser.add_argument("--examples", type=int, help="Number of examples of each part, instead of minutes.")
    parser.add_argument("--seed", type=int, help="What every example depends on; 1 unless resumed.")
    parser.add_argument("--first", type=int, default=0, help="Number of the first example.")
    parser.add_argument("--resume", action="store_true", help="Continue after the last example of the state file.")
    parser.add_argument("--state", type=Path, default=STATE, help="The state file.")
    parser.add_argument("--only", choices=names, action="append", help="Only this part; may be repeated.")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="Processes at a time.")
    return parser.parse_args(arguments)


def _state_of(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        raise SystemExit(f"there is nothing to resume: {path} does not exist") from None
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Print progress, then the totals; returns 1 when anything was found."""
    options = _parsed(arguments)
    before = _state_of(options.state) if options.resume else {}
    seed = options.seed if options.seed is not None else before.get("seed", 1)
    if options.resume and seed != before["seed"]:
        raise SystemExit(f"{options.state} is of seed {before['seed']}: leave --seed out, or do not resume")
    firsts: dict[str, int] = before.get("next", {})
    jobs = [job for job in JOBS if not options.only or job.name in options.only]
    seconds = float("inf") if options.examples else options.minutes * 60 * options.jobs / len(jobs)
    saying = Lock()

    def say(text: str) -> None:
        with saying:
            print(text, flush=True)

    def run(job: Job) -> Result:
        result = Runner(job, seed, firsts.get(job.name, options.first), say).run(
            examples=options.examples, seconds=seconds
        )
        with saying:
            firsts[job.name] = result.next_example
            options.state.parent.mkdir(parents=True, exist_ok=True)
            options.state.write_text(json.dumps({"seed": seed, "next": firsts}))
        return result

    with ThreadPoolExecutor(options.jobs) as pool:
        results = list(pool.map(run, jobs))
    values, batches = sum(each.values for each in results), sum(each.batches for each in results)
    findings = [each for result in results for each in result.findings]
    print(f"seed {seed}: {values:,} values, {batches:,} record batches, {len(findings)} findings")
    return int(bool(findings))


if __name__ == "__main__":
    sys.exit(main())
