"""Logging: one line an event, to standard error, so that standard output stays for answers."""

import logging
import sys
from typing import Literal

from pythonjsonlogger.json import JsonFormatter

from runtime.text import printable

LogFormat = Literal["text", "json"]

FORMAT = "%(asctime)s %(levelname)-7s %(name)s %(message)s"

# These report a lost connection at every attempt to mend it, from inside; our own lines say it once.
_QUIET = ("aiokafka", "clickhouse_connect", "urllib3", "httpx", "asyncio")


def configure(log_format: LogFormat = "text") -> None:
    """Set up the process's logging: before settings are read, so that their faults are told, and once they are."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(log_format))
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    quieten_libraries()


def quieten_libraries() -> None:
    """Leave to our own lines what libraries would report as well."""
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.CRITICAL if name == "aiokafka" else logging.ERROR)


class _OneLine(logging.Formatter):
    """Writes the message as one line whatever is in it; only a stack trace has lines of its own."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Escape what was put into the message."""
        record.message = printable(record.message)
        return super().formatMessage(record)


def formatter(log_format: LogFormat) -> logging.Formatter:
    """What makes an event a line: of text, or an object of JSON.

    That has time (ISO 8601, UTC), level, logger, message, exc_info, and what else the event has.
    """
    if log_format == "text":
        return _OneLine(FORMAT)
    names = {"levelname": "level", "name": "logger"}
    return JsonFormatter("%(levelname)s %(name)s %(message)s", rename_fields=names, timestamp="time")
