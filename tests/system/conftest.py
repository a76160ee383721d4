"""Order of the files of this folder. Each file runs in one process (module-scoped stacks), the longest ones first.

Otherwise a long file that begins late would run alone while the other processes have ended.
"""

import pytest

LONGEST_FIRST = (
    "test_cli",
    "test_terminal",
    "test_benchmarks",
    "test_examples",
    "test_learning_docs",
    "test_schema",
    "test_chaos",
    "test_rolling",
    "test_folders",
    "test_rule",
    "test_mix",
    "test_rebuild",
)
"""Files that take longer than a minute on two busy cores."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; the others stay in their order."""
    ranks = {name: rank for rank, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: ranks.get(item.path.stem, len(ranks)))
