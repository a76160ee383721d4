"""Destination of a command's result: a file, a terminal or another standard output."""

import codecs
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from runtime.text import printable
from tally.cli.output import answers
from tally.output_file import complete_file

Force = Annotated[bool, typer.Option("--force", help="Replace an existing file.")]
Output = Annotated[
    Path | None,
    typer.Option(
        help="File, which appears once it is complete. Default, and -: standard output.",
        callback=lambda path: None if path == Path("-") else path,
    ),
]


@contextmanager
def destination(output: Path | None, *, force: bool) -> Iterator[Callable[[bytes], object]]:
    """Yield a function that writes the pieces of a result to a file, or to standard output.

    On a terminal control characters are escaped: text of events must not act on it. Raises TallyError for a file that
    exists, unless `force`, and for output that cannot be written.
    """
    if output is not None:
        with complete_file(output, force=force) as file:
            yield file.write
    elif answers.isatty():
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        yield lambda piece: answers.write(printable(decoder.decode(piece), keep="\n\t"))
        answers.write(printable(decoder.decode(b"", final=True)))
    else:
        yield answers.write_bytes


def check_binary(name: str, output: Path | None) -> None:
    """Raise BadParameter for a binary format that would be written to a terminal."""
    if output is None and answers.isatty():
        raise typer.BadParameter(f"{name} is binary: add --output FILE, or pipe it", param_hint="--format")
