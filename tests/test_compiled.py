"""Machine code is kept under a key of all that goes into it: whatever changes, old code does not run on."""

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import llvmlite  # type: ignore[import-untyped]
import numba
import numpy as np
import pytest
from llvmlite import binding

from kernels import compiled
from tests.test_packages import MAY_IMPORT, imported_by

ROOT = Path(__file__).parent.parent
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


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the sources, without machine code."""
    for package in compiled.PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


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


def test_a_constant_of_another_module_is_compiled_anew(tree: Path) -> None:
    """`scan_int32` contains MAX_INT32, which a module without compiled functions defines."""
    bounds = tree / "schemas" / "interaction.py"
    assert "@compiled" not in bounds.read_text()
    assert run_in(tree) == (2**31 - 1, 0)
    change(bounds, "MAX_INT32 = 2**31 - 1\n", "MAX_INT32 = 2**31 - 2\n")
    assert run_in(tree) == (0, 0)
    change(bounds, "MAX_INT32 = 2**31 - 2\n", "MAX_INT32 = 2**31 - 1\n")
    assert run_in(tree) == (2**31 - 1, 1), "the same sources as at first, and the same machine code"


def key_in(tree: Path, package: str) -> str:
    key: str = compiled.key_of.__wrapped__(package, tree)
    return key


def test_the_key_is_of_every_source_that_can_be_compiled_in(tree: Path) -> None:
    for package in compiled.PACKAGES:
        assert key_in(tree, package) == key_in(ROOT, package), "the same wherever the sources are"
    keys = {package: {key_in(tree, package)} for package in compiled.PACKAGES}
    paths = [path for package in compiled.PACKAGES for path in sorted((tree / package).rglob("*.py"))]
    for path in paths:
        path.write_text(f"{path.read_text()}\n# changed\n")
        key = key_in(tree, "kernels")
        assert key not in keys["kernels"], path
        keys["kernels"].add(key)


@pytest.mark.parametrize(
    ("owner", "name", "value"),
    [
        (numba, "__version__", "0.0"),
        (llvmlite, "__version__", "0.0"),
        (np, "__version__", "0.0"),
        (platform, "python_version", lambda: "3.99.9"),
        (binding, "get_host_cpu_name", lambda: "another"),
        (compiled._config, "CPU_NAME", "generic"),
        (compiled._config, "CPU_FEATURES", "+none"),
        (compiled._config, "BOUNDSCHECK", 1),
        (compiled, "_OPTIONS", {**compiled._OPTIONS, "fastmath": True}),
    ],
)
def test_the_key_is_of_the_compiler_and_the_processor(
    owner: Any, name: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = key_in(ROOT, "kernels")
    monkeypatch.setattr(owner, name, value)
    assert key_in(ROOT, "kernels") != before


def test_compiled_functions_use_packages_of_the_key_only() -> None:
    with_functions = {
        path.relative_to(ROOT).parts[0]
        for package in MAY_IMPORT
        for path in (ROOT / package).rglob("*.py")
        if re.search(r"^@compiled$", path.read_text(), re.MULTILINE)
    }
    assert with_functions
    for package in with_functions:
        used = {name for path in (ROOT / package).rglob("*.py") for name in imported_by(path)} & set(MAY_IMPORT)
        assert used | {package} <= set(compiled.PACKAGES)


def test_code_of_other_keys_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "kernels" / "__pycache__"
    (folder / "compiled-0123456789abcdef").mkdir(parents=True)
    kept = folder / f"compiled-{key_in(tmp_path, 'kernels')}"
    kept.mkdir()
    monkeypatch.setattr(compiled, "__file__", str(tmp_path / "kernels" / "compiled.py"))
    compiled.remove_outdated()
    assert list(folder.iterdir()) == [kept]
