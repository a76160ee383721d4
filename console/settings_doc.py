"""Table of the settings in docs/console.md: `python -m console.settings_doc` writes it into the page."""

import ast
import inspect
import re
import sys
from itertools import pairwise
from pathlib import Path

from console.settings import PREFIX, ConsoleSettings

PAGE = Path(__file__).parent.parent / "docs" / "console.md"
_TABLE = re.compile(r"(?<=\n## Settings\n)(.*?\n\n)(\|.*?)(?=\n## )", re.DOTALL)


def table() -> str:
    """Return the settings as a Markdown table."""
    rows = ["| variable | default | meaning |\n|---|---|---|\n"]
    meanings = _meanings()
    for name, field in ConsoleSettings.model_fields.items():
        default = field.default
        shown = "" if default in ("", ()) else f"`{default}`"
        rows.append(f"| `{PREFIX}{name.upper()}` | {shown} | {meanings[name]} |\n")
    return "".join(rows)


def _meanings() -> dict[str, str]:
    """Return the text below each field."""
    found = {}
    (tree,) = ast.parse(inspect.getsource(ConsoleSettings)).body
    for field, below in pairwise(ast.iter_child_nodes(tree)):
        match field, below:
            case ast.AnnAssign(ast.Name(name)), ast.Expr(ast.Constant(str(text))):
                found[name] = " ".join(text.split())
    return found


def with_table(page: str) -> str:
    """Return a page with the present table in its section Settings."""
    return _TABLE.sub(lambda found: found[1] + table(), page)


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text()))
    sys.stdout.write(f"{PAGE.name} is current\n")
