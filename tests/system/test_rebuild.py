"""Machine code is compiled again where a copied source changes, and found where it does not: in processes."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from tests.test_compiled import tree

__all__ = ["tree"]

SCRIPT = """
import numpy as np
from kernels.scan_fields import scan_int32
text = np.frombuffer(b"2147483647 ", np.uint8)
text.flags.writeable = False
_, found = scan_int32(text, 0, len(text))
print(found, sum(scan_int32.stats.cache_hits.values()))
"""


class Ran(NamedTuple):
    """What a process of its own read, and how often it found machine code on disk."""

    number: int
    hits: int


def run_in(tree: Path) -> Ran:
    """Read the largest position that there is."""
    command = [sys.executable, "-c", SCRIPT]
    every = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    ran = subprocess.run(command, cwd=tree, env=every, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr
    return Ran(*map(int, ran.stdout.split()))


def change(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


def test_a_constant_of_another_module_is_compiled_anew(tree: Path) -> None:
    """`scan_int32` contains MAX_INT32, which stands in a module without any compiled function."""
    bounds = tree / "schemas" / "interaction.py"
    assert "@compiled" not in bounds.read_text()
    assert run_in(tree) == (2**31 - 1, 0)
    change(bounds, "MAX_INT32 = 2**31 - 1\n", "MAX_INT32 = 2**31 - 2\n")
    assert run_in(tree) == (0, 0)
    change(bounds, "MAX_INT32 = 2**31 - 2\n", "MAX_INT32 = 2**31 - 1\n")
    assert run_in(tree) == (2**31 - 1, 1), "the same sources as at first, and the same machine code"
