"""Markdown page of the settings: `python -m runtime.settings_doc > docs/settings.md`."""

import ast
import inspect
import sys
from collections.abc import Iterable
from functools import cache
from itertools import pairwise

from pydantic import SecretStr
from pydantic_settings import BaseSettings

from runtime.settings import Settings
from runtime.settings.consumer import ConsumerSettings
from runtime.settings.http import HttpSettings
from runtime.settings.kafka import KafkaSettings
from runtime.settings.learning import LearningSettings
from runtime.settings.reports import ReportSettings
from runtime.settings.stores import ClickHouseSettings, RedisSettings, RetentionSettings
from runtime.settings.weights import WeightSettings

_GROUPS: dict[str, type[BaseSettings]] = {
    "Kafka": KafkaSettings,
    "Redis and deduplication": RedisSettings,
    "ClickHouse": ClickHouseSettings,
    "Workers": ConsumerSettings,
    "Retention": RetentionSettings,
    "Reports": ReportSettings,
    "Learning": LearningSettings,
    "Learned weights and sessions": WeightSettings,
    "HTTP API": HttpSettings,
}
_HEAD = """# Settings

Generated from `runtime/settings/` by `make docs`. A value comes from the environment, else from the stack that runs in
the data directory, else it is the default.
"""
_TABLE = "| variable | default | meaning |\n|---|---|---|\n"
_DEPENDS_ON_THE_MACHINE = {"cache_dir": "`$XDG_CACHE_HOME/tally`, else `~/.cache/tally`"}


@cache
def descriptions() -> dict[str, str]:
    """Return the description of each setting: the text below its field, which pydantic would read at every start."""
    found = {}
    groups: list[type[BaseSettings]] = [Settings, *_GROUPS.values()]
    for group in groups:
        for tree in ast.parse(inspect.getsource(group)).body:
            for field, below in pairwise(ast.iter_child_nodes(tree)):
                match field, below:
                    case ast.AnnAssign(ast.Name(name)), ast.Expr(ast.Constant(str(text))):
                        found[name] = " ".join(text.split())
    return found


def as_markdown() -> str:
    """Return the whole page: a table for all processes, then one for each group."""
    grouped = {name for group in _GROUPS.values() for name in group.model_fields}
    page = f"{_HEAD}\n## All processes\n\n{_table(name for name in Settings.model_fields if name not in grouped)}"
    for title, group in _GROUPS.items():
        page += f"\n## {title}\n\n{_table(group.model_fields)}"
    return page


def _table(names: Iterable[str]) -> str:
    rows, meanings = [], descriptions()
    for name in names:
        default = Settings.model_fields[name].default
        if isinstance(default, SecretStr):
            default = default.get_secret_value()
        if isinstance(default, tuple):
            default = ",".join(default)
        shown = _DEPENDS_ON_THE_MACHINE.get(name) or (f"`{default}`" if default != "" else "")
        rows.append(f"| `TALLY_{name.upper()}` | {shown} | {meanings[name]} |\n")
    return _TABLE + "".join(rows)


if __name__ == "__main__":
    sys.stdout.write(as_markdown())
