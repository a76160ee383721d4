"""The settings as a Markdown table: `python -m runtime.settings_doc > docs/settings.md`."""

import sys

from pydantic import SecretStr

from runtime.http_settings import HttpSettings
from runtime.settings import Settings

_HEAD = """# Settings

Generated from `runtime/settings.py` by `make docs`. Each is read from the environment, else from the stack that runs
in the data directory, else it has this default. Sizes are bytes and times milliseconds unless the name says otherwise.

| variable | default | meaning |
|---|---|---|
"""
_DEPENDS_ON_THE_MACHINE = {"cache_dir": "`$XDG_CACHE_HOME/tally`, else `~/.cache/tally`"}


def as_markdown() -> str:
    """The whole page."""
    rows = []
    for name, field in sorted(Settings.model_fields.items(), key=lambda named: named[0] in HttpSettings.model_fields):
        default = field.default
        if isinstance(default, SecretStr):
            default = default.get_secret_value()
        if isinstance(default, tuple):
            default = ",".join(default)
        shown = _DEPENDS_ON_THE_MACHINE.get(name) or (f"`{default}`" if default != "" else "")
        rows.append(f"| `TALLY_{name.upper()}` | {shown} | {field.description or ''} |")
    return _HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    sys.stdout.write(as_markdown())
