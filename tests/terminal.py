"""Commands on a pseudo-terminal: input and output as at a real terminal instead of a pipe."""

import os
import pty
import re
import select
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from typing import Self

CTRL_C = b"\x03"
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")


class Terminal:
    """A process whose standard streams are a terminal, which is its controlling one. Ends with the block.

    Whatever is waited for is waited for until `deadline_s` after the start, all in all.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], *, columns: int = 80, deadline_s: float = 120
    ) -> None:
        self._deadline = time.monotonic() + deadline_s
        self._ours, theirs = pty.openpty()
        termios.tcsetwinsize(self._ours, (24, columns))
        self.process = subprocess.Popen(
            command,
            # Test runners set sizes for processes without a terminal; here the terminal has its own.
            env={name: value for name, value in environment.items() if name not in ("COLUMNS", "LINES")},
            preexec_fn=lambda: os.login_tty(theirs),  # noqa: PLW1509  (two system calls; Ctrl-C needs it)
            pass_fds=[theirs],
        )
        os.close(theirs)
        self._received = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._ours)

    def type(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self._ours, keys)

    @property
    def output(self) -> str:
        """Return the output so far, without escape sequences."""
        return _CONTROL.sub("", self._received.decode(errors="replace")).replace("\r\n", "\n")

    def until(self, text: str) -> None:
        """Return once a text was shown."""
        while text not in self.output:
            assert self._read(), f"ended without {text!r}: {self.output}"

    def shows(self, text: str, wait_s: float) -> bool:
        """Return whether a text was shown, after at most `wait_s` for more output."""
        while text not in self.output and select.select([self._ours], [], [], wait_s)[0]:
            assert self._read(), f"ended without {text!r}: {self.output}"
        return text in self.output

    def end(self) -> int:
        """The exit code, once everything was shown."""
        while self._read():
            pass
        return self.process.wait(max(0.1, self._deadline - time.monotonic()))

    def _read(self) -> bool:
        """Read the next output; False at the end. Fails the test after the deadline."""
        left_s = self._deadline - time.monotonic()
        readable, _, _ = select.select([self._ours], [], [], max(0, left_s))
        assert readable, f"neither an end nor a word before the deadline: {self.output[-2000:]}"
        try:
            read = os.read(self._ours, 65_536)
        except OSError:  # the other side is closed
            return False
        self._received += read
        return bool(read)
