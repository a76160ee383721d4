"""The `tally` command."""

import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import TextIO, cast

_STANDARD_ERROR = 2
"""Highest descriptor of a standard stream."""
INTERRUPTED = 130
"""Exit code of a program that Ctrl-C ends (128 + SIGINT)."""


def main() -> None:
    """Run a command. A TallyError becomes one line and an exit code."""
    _occupy_standard_descriptors()
    try:
        # Imported here: Ctrl-C must be clean during the imports too.
        from runtime import log
        from runtime.errors import TallyError
        from tally.cli.app import app
        from tally.cli.output import answers, say
        from tally.cli.streams import GuardedOutput
        from tally.invoked import invoked

        log.silence_libraries()
        try:
            with redirect_stdout(cast(TextIO, GuardedOutput(sys.stdout))):
                try:
                    _check_encoding(sys.argv[1:])
                    app(prog_name=invoked())
                finally:
                    answers.flush()
        except TallyError as error:
            say(f"error: {error}", style="red")
            sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _check_encoding(arguments: Sequence[str]) -> None:
    """Raise SettingsError for an argument that is not UTF-8: no store could take it, and some would fail late."""
    from runtime.errors import SettingsError

    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise SettingsError(f"the argument {argument[:60]!a} is not valid UTF-8") from None


def _occupy_standard_descriptors() -> None:
    """Open the null device in place of a closed standard stream: else a socket could get its number."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STANDARD_ERROR:
        pass
    os.close(descriptor)
