"""Copied sources that are changed: machine code is compiled again where it must be, and a field is added."""

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from runtime.settings import Settings
from schemas.tables import INTERACTIONS
from tests.test_compiled import tree
from tests.test_packages import MAY_IMPORT, ROOT

__all__ = ["tree"]

END_OF_FIELDS = '    @model_validator(mode="before")\n'
FIELDS = "    campaign_id: Id | None = None\n    shelf: Int32 | None = None\n\n"
END_OF_MIGRATIONS = ")\nBOOTSTRAP = ("
MIGRATION = f"""    Migration(
        1_000,
        ("ALTER TABLE {INTERACTIONS} ADD COLUMN IF NOT EXISTS campaign_id Nullable(String), "
         "ADD COLUMN IF NOT EXISTS shelf Nullable(UInt32)",),
        oldest=4,
    ),
"""
SCRIPT = """
import numpy as np
from kernels.scan_fields import scan_int32
text = np.frombuffer(b"2147483647 ", np.uint8)
text.flags.writeable = False
_, found = scan_int32(text, 0, len(text))
print(found, sum(scan_int32.stats.cache_hits.values()))
"""


class ProcessResult(NamedTuple):
    """Result of a separate process, and its cache hits of machine code."""

    number: int
    hits: int


def run_in(tree: Path) -> ProcessResult:
    """Read the largest position that there is."""
    command = [sys.executable, "-c", SCRIPT]
    every = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    ran = subprocess.run(command, cwd=tree, env=every, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr
    return ProcessResult(*map(int, ran.stdout.split()))


def change(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


def test_a_changed_constant_of_another_module_is_recompiled(tree: Path) -> None:
    """`scan_int32` contains MAX_INT32, which a module without compiled functions defines."""
    bounds = tree / "schemas" / "interaction.py"
    assert "@compiled" not in bounds.read_text()
    assert run_in(tree) == (2**31 - 1, 0)
    change(bounds, "MAX_INT32 = 2**31 - 1\n", "MAX_INT32 = 2**31 - 2\n")
    assert run_in(tree) == (0, 0)
    change(bounds, "MAX_INT32 = 2**31 - 2\n", "MAX_INT32 = 2**31 - 1\n")
    assert run_in(tree) == (2**31 - 1, 1), "the same sources as at first, and the same machine code"


async def test_an_added_field_needs_only_a_model_line_and_a_migration(settings: Settings, tmp_path: Path) -> None:
    """`tests.added_fields` has the checks: emitting, scanning, storing, reading, filtering, erasing."""
    for package in (*MAY_IMPORT, "tests"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    change(tmp_path / "schemas" / "interaction.py", END_OF_FIELDS, FIELDS + END_OF_FIELDS)
    change(tmp_path / "schemas" / "migrations.py", END_OF_MIGRATIONS, MIGRATION + END_OF_MIGRATIONS)
    environment = {**os.environ, **settings.as_environment(), "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-P", "-m", "tests.added_fields"]
    ran = await asyncio.to_thread(
        subprocess.run, command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert ran.returncode == 0, ran.stderr
