"""The `tally` command."""

import sys

from rich.console import Console

from runtime.errors import TallyError

INTERRUPTED = 130


def main() -> None:
    """Run a command; errors that a person can act on are one line and an exit code."""
    try:
        from tally.cli.app import app  # noqa: PLC0415  (takes a second, in which Ctrl-C must be clean too)

        app()
    except TallyError as error:
        Console(stderr=True).print(f"[red]error:[/red] {_plain(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _plain(text: str) -> str:
    """Text that the console takes as it is, brackets included."""
    return text.replace("[", r"\[")
