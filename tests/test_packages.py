"""The table of packages in ARCHITECTURE.md: who may import whom."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {
    "schemas": set(),
    "kernels": {"schemas"},
    "runtime": {"schemas"},
    "producers": {"schemas", "kernels", "runtime"},
    "consumers": {"schemas", "kernels", "runtime"},
    "readers": {"schemas", "runtime"},
    "learning": {"schemas", "runtime"},
    "deploy": {"schemas", "runtime"},
    "console": set(),
    "tally": {"schemas", "kernels", "runtime", "producers", "consumers", "readers", "learning", "deploy", "console"},
}
IO_MODULES = {
    "aiokafka", "asyncio", "atexit", "clickhouse_connect", "httpx", "io", "logging", "os", "pathlib", "redis", "shutil",
    "socket", "subprocess", "tempfile", "urllib",
}  # fmt: skip


def imported_by(path: Path) -> set[str]:
    """The top-level packages a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def called_in(path: Path) -> set[str]:
    """Names of the functions that a file calls without a module's name before them."""
    calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    return {function.id for function in calls if isinstance(function, ast.Name)}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_package_imports_only_what_the_table_allows(package: str) -> None:
    files = list((ROOT / package).rglob("*.py"))
    assert files
    wrong = {
        str(path.relative_to(ROOT)): sorted(others)
        for path in files
        if (others := (imported_by(path) & set(MAY_IMPORT)) - MAY_IMPORT[package] - {package})
    }
    assert not wrong


def modules_imported_by(path: Path) -> set[str]:
    """The modules a file imports, wherever in it; of `from a import b` both `a` and `a.b`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def files_outside_kernels() -> list[Path]:
    """Every file of the product and of its drivers; a test of one kernel may import that kernel."""
    folders = [*(set(MAY_IMPORT) - {"kernels"}), "benchmarks", "tests/chaos", "tests/hostile"]
    return [path for folder in folders for path in (ROOT / folder).rglob("*.py")]


def test_only_kernels_imports_the_compiler() -> None:
    assert [path for path in (ROOT / "kernels").rglob("*.py") if "numba" in imported_by(path)]
    assert not [path for path in files_outside_kernels() if imported_by(path) & {"numba", "llvmlite"}]


def test_only_the_boundary_of_kernels_is_imported() -> None:
    wrong = {}
    for path in files_outside_kernels():
        names = [name.split(".") for name in modules_imported_by(path)]
        inner = {parts[1] for parts in names if parts[0] == "kernels" and len(parts) > 1} - {"boundary"}
        if inner:
            wrong[str(path.relative_to(ROOT))] = sorted(inner)
    assert not wrong


def test_schemas_does_no_io() -> None:
    for path in (ROOT / "schemas").rglob("*.py"):
        assert not imported_by(path) & IO_MODULES, path
        assert "open" not in called_in(path), path
