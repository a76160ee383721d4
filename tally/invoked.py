"""Name by which this program was called, for hints that can be typed as shown."""

import os
import re
import shlex
import shutil
import sys
from pathlib import Path

NAME = "tally"
_COMMAND = re.compile(rf"(?<=`){NAME}(?=[ `])")


def invoked() -> str:
    """Return `tally` if the shell finds this program under that name, else the path of the call."""
    called = Path(sys.argv[0])
    if called.name != NAME or not called.exists():  # a module, or a test
        return NAME
    found = shutil.which(NAME)
    return NAME if found and Path(found).samefile(called) else shlex.quote(sys.argv[0])


def activation() -> str:
    """Return the shell command after which another terminal finds this program as `tally`; empty when it does already.

    That is where a virtual environment with a script for it is active, or has the program, but not its folder on PATH.
    """
    script = Path(sys.prefix) / "bin" / "activate"
    is_found_anywhere = invoked() == NAME and not os.environ.get("VIRTUAL_ENV")
    if sys.prefix == sys.base_prefix or not script.exists() or is_found_anywhere:
        return ""
    here = Path.cwd()
    return f"source {shlex.quote(str(script.relative_to(here) if script.is_relative_to(here) else script))}"


def as_invoked(text: str) -> str:
    """Replace `tally` in commands in backticks by the name of the call."""
    return _COMMAND.sub(lambda _: invoked(), text)
