"""Logging: one line an event, to standard error, so that standard output stays for answers."""

import logging
import math
import sys
import time
from threading import Lock
from typing import Literal, NamedTuple

from pythonjsonlogger.json import JsonFormatter

from runtime.masking import mask_secrets
from runtime.text import printable

LogFormat = Literal["text", "json"]

FORMAT = "%(asctime)s %(levelname)-7s %(name)s %(message)s"

# Of these only errors are logged, and few of a kind: they report a lost connection at every attempt to connect again.
_LIBRARIES = ("aiokafka", "clickhouse_connect", "urllib3", "httpx", "asyncio")

FLOOD_LINES = 3
"""Lines of one kind that a library may log within FLOOD_S."""
FLOOD_S = 30.0
MAX_KINDS = 1_000
"""Kinds of lines that are counted at a time."""


ACCESS = "tally.access"
"""The logger of HTTP requests: one line each, which a setting of its own turns off."""


def configure(log_format: LogFormat = "text", *, max_lines: int | None = None) -> None:
    """Set up the process's logging: before settings are read, so that their faults are told, and once they are.

    `max_lines` of one kind are logged within FLOOD_S: a service whose clients cause lines must not fill a disk.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(log_format))
    handler.addFilter(FloodFilter(max_lines))
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    _set_levels(logging.ERROR)


def silence_libraries() -> None:
    """Leave to a command's own error line what libraries would report as well."""
    _set_levels(logging.ERROR, aiokafka=logging.CRITICAL)


def _set_levels(level: int, **others: int) -> None:
    for name in _LIBRARIES:
        logging.getLogger(name).setLevel(others.get(name, level))


class _Period(NamedTuple):
    begun: float
    passed: int
    left_out: int


class FloodFilter(logging.Filter):
    """Filter that bounds how often the same kind of line is logged, and says how many lines it has left out.

    Lines that come from one statement of the code are of one kind, whatever they say. Those of libraries are bounded,
    those of others only when `max_lines` says so, and those of single requests never.
    """

    def __init__(self, max_lines: int | None = None) -> None:
        super().__init__()
        self._max_lines = max_lines
        self._lock = Lock()
        self._kinds: dict[tuple[str, int], _Period] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to log the record. Its message may get a remark."""
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
                remark = f"{left_out:,} lines like this one were left out since the last"
                record.msg, record.args = f"{record.getMessage()} ({remark})", ()
            begun, passed, left_out = now, 0, 0
        may_pass = passed < most
        if len(self._kinds) >= MAX_KINDS:
            self._kinds.pop(next(iter(self._kinds)))
        self._kinds[kind] = _Period(begun, passed + may_pass, left_out + (not may_pass))
        return may_pass


class _OneLine(logging.Formatter):
    """Writes the message as one line whatever is in it; only a stack trace has lines of its own."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Escape what was put into the message."""
        record.message = printable(record.message)
        return super().formatMessage(record)


class _MaskingFormatter(logging.Formatter):
    """A formatter that masks secrets in the output of another one."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        return mask_secrets(self._inner.format(record))


def formatter(log_format: LogFormat) -> logging.Formatter:
    """The formatter of log events: text, or a JSON object per line.

    That has time (ISO 8601, UTC), level, logger, message, exc_info, and what else the event has.
    """
    if log_format == "text":
        return _MaskingFormatter(_OneLine(FORMAT))
    names = {"levelname": "level", "name": "logger"}
    return _MaskingFormatter(JsonFormatter("%(levelname)s %(name)s %(message)s", rename_fields=names, timestamp="time"))
