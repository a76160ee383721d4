"""Logging: one line an event, to standard error, so that standard output stays for answers."""

import logging
import sys

FORMAT = "%(asctime)s %(levelname)-7s %(name)s %(message)s"

# These report a lost connection at every attempt to mend it, from inside; our own lines say it once.
_QUIET = ("aiokafka", "clickhouse_connect", "urllib3", "httpx", "asyncio")


def configure(level: int = logging.INFO) -> None:
    """Set up the process's logging. Call once, from a command."""
    logging.basicConfig(stream=sys.stderr, level=level, format=FORMAT, force=True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.CRITICAL if name == "aiokafka" else logging.ERROR)
