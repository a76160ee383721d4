"""Machine code is cached under a key of all its inputs: after any change, outdated code is not used."""

import platform
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import llvmlite  # type: ignore[import-untyped]
import numba
import numpy as np
import pytest
from llvmlite import binding

from kernels import compiled
from tests.test_packages import MAY_IMPORT, imported_by

ROOT = Path(__file__).parent.parent


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the sources, without machine code."""
    for package in compiled.PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def key_in(tree: Path) -> str:
    key: str = compiled.key_of.__wrapped__(tree)
    return key


def test_the_cache_key_depends_on_every_source_that_can_be_compiled_in(tree: Path) -> None:
    assert key_in(tree) == key_in(ROOT), "the same wherever the sources are"
    keys = {key_in(tree)}
    for path in [path for package in compiled.PACKAGES for path in sorted((tree / package).rglob("*.py"))]:
        path.write_text(f"{path.read_text()}\n# changed\n")
        key = key_in(tree)
        assert key not in keys, path
        keys.add(key)


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
def test_the_cache_key_depends_on_the_compiler_and_the_processor(
    owner: Any, name: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = key_in(ROOT)
    monkeypatch.setattr(owner, name, value)
    assert key_in(ROOT) != before


def test_compiled_functions_use_only_packages_in_the_cache_key() -> None:
    with_functions = {
        path.relative_to(ROOT).parts[0]
        for package in MAY_IMPORT
        for path in (ROOT / package).rglob("*.py")
        if re.search(r"^@compiled$", path.read_text(), re.MULTILINE)
    }
    assert with_functions == {"kernels"}
    used = {name for path in (ROOT / "kernels").rglob("*.py") for name in imported_by(path)} & set(MAY_IMPORT)
    assert used | with_functions <= set(compiled.PACKAGES)


def test_code_of_other_cache_keys_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "kernels" / "__pycache__"
    (folder / "compiled-0123456789abcdef").mkdir(parents=True)
    kept = folder / f"compiled-{key_in(tmp_path)}"
    kept.mkdir()
    monkeypatch.setattr(compiled, "__file__", str(tmp_path / "kernels" / "compiled.py"))
    compiled.remove_outdated()
    assert list(folder.iterdir()) == [kept]


def resident_code_kib() -> int:
    """Return the resident memory of the compiler's code, in KiB."""
    parts = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=re.MULTILINE)
    code = [part for part in parts if "/libllvmlite" in part and " r-xp " in part]
    return sum(int(re.findall(r"^Rss: +(\d+) kB", part, flags=re.MULTILINE)[0]) for part in code)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_the_compiler_works_again_when_its_memory_was_released() -> None:
    assert numba.njit(lambda number: number + 1)(1) == 2
    assert resident_code_kib() > 10_000
    compiled.release_compiler()
    assert resident_code_kib() < 1_000
    assert numba.njit(lambda number: number + 2)(1) == 3
