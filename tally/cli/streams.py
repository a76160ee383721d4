"""Standard streams of commands: one error for output that cannot be written, whoever writes it."""

import io
import os
import sys
from typing import BinaryIO, TextIO

import typer

from runtime.errors import TallyError

BROKEN_PIPE = 141
"""Exit code of a program that SIGPIPE ends, which is how other commands in a pipeline end (128 + 13)."""


class OutputFailed(TallyError):
    """Standard output cannot be written to: it is closed, its disk is full, or its reader is gone."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"cannot write to standard output: {error.strerror or error}")
        if isinstance(error, BrokenPipeError):
            self.exit_code = BROKEN_PIPE


def read_standard_input(limit_bytes: int, parameter: str) -> str:
    """Read standard input as UTF-8. Raises BadParameter, which names the parameter, and TallyError if it is closed."""
    if sys.stdin is None:
        raise TallyError("cannot read from standard input: it is closed")
    with os.fdopen(os.dup(0), "rb") as stream:
        text = stream.read(limit_bytes + 1)
    if len(text) > limit_bytes:
        raise typer.BadParameter(f"has more than {limit_bytes:,} bytes", param_hint=parameter)
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise typer.BadParameter("is not UTF-8", param_hint=parameter) from None


class StandardStream(io.TextIOBase):
    """Standard stream, looked up at each write: tests and programs replace it."""

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def _found(self) -> TextIO | None:
        found: TextIO | None = getattr(sys, self._name)
        # A live display replaces the stream by one that prints to this console, which would recurse.
        return getattr(found, "rich_proxied_file", found)

    @property
    def _stream(self) -> TextIO:
        return self._found or io.StringIO()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Encoding of the stream."""
        return self._stream.encoding or "utf-8"

    def isatty(self) -> bool:
        """Return whether the stream is a terminal."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """Return the stream's file descriptor."""
        return self._stream.fileno()


class StandardOutput(StandardStream):
    """Standard output. Raises OutputFailed."""

    def write(self, text: str) -> int:
        """Write text; characters that the encoding lacks are escaped."""
        if self._found is None:
            raise OutputFailed(OSError("it is closed"))
        stream, encoding = self._stream, self.encoding
        try:
            return stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except OSError as error:
            _give_up(stream)
            raise OutputFailed(error) from None

    def write_bytes(self, data: bytes) -> None:
        """Write bytes unchanged; as UTF-8 text where the stream takes only text. Raises OutputFailed."""
        binary = getattr(self._found, "buffer", None)
        if binary is None:
            self.write(data.decode(errors="replace"))
            return
        self.flush()
        try:
            binary.write(data)
        except OSError as error:
            _give_up(self._stream)
            raise OutputFailed(error) from None

    def flush(self) -> None:
        """Flush. Raises OutputFailed."""
        try:
            self._stream.flush()
        except OSError as error:
            _give_up(self._stream)
            raise OutputFailed(error) from None


class GuardedOutput(StandardOutput):
    """Standard output for libraries that print by themselves, such as click in its help. Raises OutputFailed too."""

    errors = "backslashreplace"

    def __init__(self, stream: TextIO | None) -> None:
        super().__init__("stdout")
        self._guarded = stream

    @property
    def _found(self) -> TextIO | None:
        return self._guarded

    @property
    def buffer(self) -> BinaryIO | None:
        """Stream below the text, for bytes."""
        return getattr(self._guarded, "buffer", None)


class StandardError(StandardStream):
    """Standard error. A failed write is ignored."""

    def write(self, text: str) -> int:
        """Write text if possible."""
        try:
            return self._stream.write(text)
        except OSError:
            return len(text)

    def flush(self) -> None:
        """Flush if possible."""
        try:
            self._stream.flush()
        except OSError:
            _give_up(self._stream)


def _give_up(stream: TextIO) -> None:
    """Send buffered text to the null device: else the interpreter reports the error again when it ends."""
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
