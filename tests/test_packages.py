"""The table of packages in ARCHITECTURE.md: who may import whom."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {
    "schemas": set(),
    "kernels": {"schemas"},
    "runtime": {"schemas", "kernels"},
    "producers": {"schemas", "kernels", "runtime"},
    "consumers": {"schemas", "kernels", "runtime"},
    "readers": {"schemas", "runtime"},
    "deploy": {"schemas", "runtime"},
    "tally": {"schemas", "kernels", "runtime", "producers", "consumers", "readers", "deploy"},
}
IO_MODULES = {"aiokafka", "redis", "clickhouse_connect", "asyncio", "socket", "subprocess"}


def imported_by(path: Path) -> set[str]:
    """The top-level packages a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


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


def test_schemas_does_no_io() -> None:
    for path in (ROOT / "schemas").rglob("*.py"):
        assert not imported_by(path) & IO_MODULES, path
