"""`make hostile`: every attack, on a stack of its own, round after round with other seeds, and what was found.

Each finding names its case and its seed, with which `--only CASE --seed SEED --rounds 1` tries it again.
"""

import argparse
import asyncio
import logging
import sys
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path
from random import Random

from deploy.embedded.stack import Stack
from runtime.settings import Settings
from tests.hostile.log_cases import CASES as LOG_CASES
from tests.hostile.suite import Case
from tests.lab import lab_of, settings_of_its_own

SUITES = {"log": LOG_CASES}
"""A suite of cases is a line here."""


@dataclass
class Totals:
    """What was done, and found."""

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


async def _attacked(stack: Stack, folder: Path, options: argparse.Namespace) -> Totals:
    totals = Totals()
    for seed in range(options.seed, options.seed + options.rounds):
        for suite in options.suite or SUITES:
            for name, case in SUITES[suite].items():
                if not options.only or name in options.only:
                    await _try(case, f"{suite} {name}", seed, stack, folder, totals)
    return totals


async def _try(case: Case, name: str, seed: int, stack: Stack, folder: Path, totals: Totals) -> None:
    totals.cases += 1
    try:
        async with lab_of(settings_of_its_own(stack, folder)) as lab:
            attack = await case(lab, Random(seed))
    except Exception:  # whatever an attack leads to is what is looked for
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
        totals = asyncio.run(_attacked(stack, Path(folder), options))
    print(f"{totals.cases:,} cases, {totals.tries:,} records and requests, {totals.findings:,} findings")
    sys.exit(totals.findings > 0)


if __name__ == "__main__":
    main()
