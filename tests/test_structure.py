"""Sizes and names of product code: bounded files, functions and parameters, and class names that are unique."""

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from tests.test_packages import MAY_IMPORT

ROOT = Path(__file__).parent.parent
PACKAGES = tuple(MAY_IMPORT)

MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 60
MAX_PARAMETERS = 8

FILES: dict[str, str] = {}
"""Longer files, each with the reason."""
FUNCTIONS: dict[str, str] = {}
"""Longer functions, each with the reason."""
PARAMETERS: dict[str, str] = {
    "tally/cli/simulate.py:simulate": "the parameters of a command are its options",
    "tally/cli/dlq.py:replay_letters": "the parameters of a command are its options",
    "tally/cli/export.py:interactions": "the parameters of a command are its options",
    "tally/cli/judgments.py:judgments": "the parameters of a command are its options",
    "tally/cli/training.py:training": "the parameters of a command are its options",
    "tally/cli/interleaving.py:interleaving": "the parameters of a command are its options",
    "tally/cli/propensities.py:propensities": "the parameters of a command are its options",
    "tally/cli/report.py:report": "the parameters of a command are its options",
    "tally/cli/evaluate.py:gate": "the parameters of a command are its options",
    "tally/cli/policy.py:policy": "the parameters of a command are its options",
    "tally/cli/weight_history.py:weight_history": "the parameters of a command are its options",
    "tally/cli/whatif.py:whatif": "the parameters of a command are its options",
    "tally/cli/weights.py:show_weights": "the parameters of a command are its options",
}
"""Functions with more parameters, each with the reason."""
NAMES: dict[str, str] = {}
"""Class and type names that occur more than once, each with the reason."""

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def sources() -> dict[str, str]:
    """Return the source of each product file, by its path in the repository."""
    paths = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return {path.relative_to(ROOT).as_posix(): path.read_text() for path in paths}


@cache
def trees() -> dict[str, ast.Module]:
    """Return the syntax tree of each product file, by its path in the repository."""
    return {path: ast.parse(text) for path, text in sources().items()}


def functions(node: ast.AST, prefix: str) -> Iterator[tuple[str, FunctionNode]]:
    """Yield each function below a node, as path:Class.function."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, FunctionNode | ast.ClassDef):
            name = f"{prefix}{child.name}"
            if isinstance(child, FunctionNode):
                yield name, child
            yield from functions(child, f"{name}.")
        else:
            yield from functions(child, prefix)


@cache
def all_functions() -> list[tuple[str, FunctionNode]]:
    """Return each function of the product."""
    return [each for path, tree in trees().items() for each in functions(tree, f"{path}:")]


def parameters_of(function: FunctionNode) -> int:
    """Return the number of parameters, without self and cls."""
    given = function.args
    names = [each.arg for each in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")])


def type_names(tree: ast.Module) -> Iterator[str]:
    """Yield the classes and type aliases at module level, without type variables and abbreviations of array types."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name, value = node.targets[0].id, ast.unparse(node.value)
            if name[0].isupper() and not name.isupper() and not value.startswith(("TypeVar(", "npt.NDArray[")):
                yield name


def unexpected(found: Mapping[str, object], exceptions: dict[str, str]) -> dict[str, object]:
    """Return findings without exceptions, and exceptions without findings."""
    stale = {name: "the exception is not needed" for name in exceptions if name not in found}
    return {name: value for name, value in found.items() if name not in exceptions} | stale


def test_files_are_short() -> None:
    sizes = {path: text.count("\n") for path, text in sources().items()}
    assert not unexpected({path: size for path, size in sizes.items() if size > MAX_FILE_LINES}, FILES)


def test_functions_are_short() -> None:
    sizes = {name: (each.end_lineno or each.lineno) - each.lineno + 1 for name, each in all_functions()}
    assert not unexpected({name: size for name, size in sizes.items() if size > MAX_FUNCTION_LINES}, FUNCTIONS)


def test_functions_have_few_parameters() -> None:
    counts = {name: parameters_of(each) for name, each in all_functions()}
    assert not unexpected({name: count for name, count in counts.items() if count > MAX_PARAMETERS}, PARAMETERS)


def test_public_type_names_are_unique() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for path, tree in trees().items():
        for name in type_names(tree):
            if not name.startswith("_"):
                places[name].append(path)
    assert not unexpected({name: where for name, where in places.items() if len(where) > 1}, NAMES)
