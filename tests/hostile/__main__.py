"""`make hostile`: every attack, on a stack of its own, round after round with other seeds, and what was found.

Each finding names its case and its seed, with which `--only CASE --seed SEED --rounds 1` tries it again.
"""

import argparse
import asyncio
import logging
import sys
import tempfile
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

from deploy.embedded.stack import Stack
from runtime.settings import Settings
from runtime.sizes import MIB
from tests.hostile.http_cases import CASES as HTTP_CASES
from tests.hostile.http_target import Case as HttpCase
from tests.hostile.http_target import Target, http_target, run_case
from tests.hostile.log_cases import CASES as LOG_CASES
from tests.hostile.suite import Attack, Case
from tests.lab import lab_of, settings_of_its_own

Attempt = Callable[[Random], Awaitable[Attack]]
Suite = Callable[[Stack, Path], AbstractAsyncContextManager[dict[str, Attempt]]]


@asynccontextmanager
async def _log_suite(stack: Stack, folder: Path) -> AsyncIterator[dict[str, Attempt]]:
    """Attacks through the log, each on a topic of its own."""

    async def attempt(case: Case, random: Random) -> Attack:
        async with lab_of(settings_of_its_own(stack, folder)) as lab:
            return await case(lab, random)

    yield {name: partial(attempt, case) for name, case in LOG_CASES.items()}


@asynccontextmanager
async def _http_suite(stack: Stack, folder: Path) -> AsyncIterator[dict[str, Attempt]]:
    """Attacks through HTTP, all on one API process."""

    async def attempt(target: Target, case: HttpCase, _random: Random) -> Attack:
        seen = await run_case(target, case)
        return Attack(1, f"longest stall {seen.stall_ms:.0f} ms, memory grew by {seen.growth_bytes / MIB:.0f} MiB")

    async with http_target(settings_of_its_own(stack, folder), folder) as target:
        yield {getattr(case, "__name__", repr(case)): partial(attempt, target, case) for case in HTTP_CASES}


SUITES: dict[str, Suite] = {"log": _log_suite, "http": _http_suite}


@dataclass
class Totals:
    """Totals of attacks and findings."""

    cases: int = 0
    tries: int = 0
    findings: int = 0


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="How often each case is tried.")
    parser.add_argument("--seed", type=int, default=1, help="Seed of the first round; each further round adds one.")
    parser.add_argument("--suite", choices=sorted(SUITES), action="append", help="Only this suite; may be repeated.")
    parser.add_argument("--only", action="append", metavar="CASE", help="Only this case; may be repeated.")
    return parser.parse_args()


async def _attack(stack: Stack, folder: Path, options: argparse.Namespace) -> Totals:
    totals = Totals()
    for suite in options.suite or SUITES:
        async with SUITES[suite](stack, folder) as attempts:
            for seed in range(options.seed, options.seed + options.rounds):
                for name, attempt in attempts.items():
                    if not options.only or name in options.only:
                        await _try(attempt, f"{suite} {name}", seed, totals)
    return totals


async def _try(attempt: Attempt, name: str, seed: int, totals: Totals) -> None:
    totals.cases += 1
    try:
        attack = await attempt(Random(seed))
    except Exception:  # any error is a finding
        totals.findings += 1
        print(f"FOUND {name}, seed {seed}:\n{traceback.format_exc()}", flush=True)
    else:
        totals.tries += attack.tries
        print(f"{name}, seed {seed}: {attack.tries:,} {attack.note}".rstrip(), flush=True)


def main() -> None:
    """Print what each case did, then the totals; exit code 1 when anything was found."""
    options = _parsed()
    logging.disable(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder, Stack(Settings(data_dir=Path(folder) / "stack")) as stack:
        totals = asyncio.run(_attack(stack, Path(folder), options))
    print(f"{totals.cases:,} cases, {totals.tries:,} records and requests, {totals.findings:,} findings")
    sys.exit(totals.findings > 0)


if __name__ == "__main__":
    main()
