"""Logging: one line per event, to standard error. Standard output is for results."""

import logging
import math
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from threading import Lock
from typing import Literal, NamedTuple, TextIO

from pythonjsonlogger.json import JsonFormatter

from runtime.text import mask_secrets, printable

LogFormat = Literal["text", "json"]

FORMAT = "%(asctime)s %(levelname)-7s %(name)s %(message)s"

# Libraries that report a lost connection at every reconnect: only errors are logged, and few of a kind.
_LIBRARIES = ("aiokafka", "clickhouse_connect", "urllib3", "httpx", "asyncio")

FLOOD_LINES = 3
"""Maximum lines of one kind that a library may log within FLOOD_S."""
FLOOD_S = 30.0
MAX_KINDS = 1_000
"""Maximum kinds of lines that are counted at a time."""


ACCESS = "tally.access"
"""Logger of HTTP requests, one line each; TALLY_HTTP_ACCESS_LOG turns it off."""


_text_handler: "logging.StreamHandler[TextIO] | None" = None
"""Handler of this process's log in text format."""


def configure(log_format: LogFormat = "text", *, max_lines: int | None = None) -> None:
    """Set up the process's logging. Call it before settings are read, to report their errors, and again afterwards.

    At most `max_lines` of one kind are logged within FLOOD_S, because clients of a service must not fill its disk.
    """
    global _text_handler  # noqa: PLW0603  (logging itself is global)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(log_format))
    handler.addFilter(FloodFilter(max_lines))
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    _set_levels(logging.ERROR)
    _text_handler = handler if log_format == "text" else None


def write_together(record: logging.LogRecord, messages: Sequence[str]) -> bool:
    """Write a line for each message, with the time, level and logger of `record`, whose own message is empty.

    It takes a quarter of the time of a record for each line. Return False, and write nothing, if the log is not in text
    format, or not only on standard error.
    """
    handler = _text_handler
    if handler is None or logging.getLogger().handlers != [handler]:
        return False
    start = handler.format(record)
    text = mask_secrets("".join(f"{start}{printable(each)}\n" for each in messages))
    with suppress(OSError):  # standard error may be closed
        handler.acquire()
        try:
            handler.stream.write(text)
            handler.flush()
        finally:
            handler.release()
    return True


def silence_libraries() -> None:
    """Silence errors of libraries that a command reports itself."""
    _set_levels(logging.ERROR, aiokafka=logging.CRITICAL)


def _set_levels(level: int, **others: int) -> None:
    for name in _LIBRARIES:
        logging.getLogger(name).setLevel(others.get(name, level))


class _Period(NamedTuple):
    begun: float
    passed: int
    left_out: int


class FloodFilter(logging.Filter):
    """Filter that bounds lines of one kind, and reports how many lines it has suppressed.

    Lines of one log statement are of one kind. Lines of libraries are always bounded, lines of the access log never,
    and all others by `max_lines`, if given.
    """

    def __init__(self, max_lines: int | None = None) -> None:
        super().__init__()
        self._max_lines = max_lines
        self._lock = Lock()
        self._kinds: dict[tuple[str, int], _Period] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to log the record. A count of suppressed lines may be added to its message."""
        is_library = record.name.partition(".")[0] in _LIBRARIES
        most = FLOOD_LINES if is_library else None if record.name == ACCESS else self._max_lines
        if most is None:
            return True
        with self._lock:
            return self._may_pass(record, most)

    def _may_pass(self, record: logging.LogRecord, most: int) -> bool:
        kind, now = (record.pathname, record.lineno), time.monotonic()
        begun, passed, left_out = self._kinds.pop(kind, _Period(-math.inf, 0, 0))
        if now - begun >= FLOOD_S:
            if left_out:
                remark = f"{left_out:,} lines like this one were suppressed since the last"
                record.msg, record.args = f"{record.getMessage()} ({remark})", ()
            begun, passed, left_out = now, 0, 0
        may_pass = passed < most
        if len(self._kinds) >= MAX_KINDS:
            self._kinds.pop(next(iter(self._kinds)))
        self._kinds[kind] = _Period(begun, passed + may_pass, left_out + (not may_pass))
        return may_pass


class _OneLine(logging.Formatter):
    """Formatter that writes the message as one line; only a stack trace has further lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Escape control characters in the message."""
        record.message = printable(record.message)
        return super().formatMessage(record)


class _MaskingFormatter(logging.Formatter):
    """Formatter that masks secrets in the output of another formatter."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        return mask_secrets(self._inner.format(record))


def formatter(log_format: LogFormat) -> logging.Formatter:
    """Return the formatter of log events: text, or one JSON object per line.

    The object has time (ISO 8601, UTC), level, logger, message, exc_info, and the event's extra fields.
    """
    if log_format == "text":
        return _MaskingFormatter(_OneLine(FORMAT))
    names = {"levelname": "level", "name": "logger"}
    return _MaskingFormatter(JsonFormatter("%(levelname)s %(name)s %(message)s", rename_fields=names, timestamp="time"))
