"""The access log: its lines are those of the logging library, however they are written."""

import re
import subprocess
import sys

import pytest

PROGRAM = """
import asyncio, logging, sys
from runtime import log
from runtime.http.middleware import RequestMiddleware
from runtime.http.access import Caller
from runtime.settings import Settings
from runtime.traces import Traces

async def app(scope, receive, send):
    scope["tally.caller"] = Caller("k", "a shop", (), 0)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})

async def ignore(message):
    pass

async def main():
    middleware = RequestMiddleware(app, max_in_flight=5, access_log=True, traces=Traces(Settings(), "t"))
    for path in ("/a", "/\\u2028/tb_secret", "/x\\ny"):
        headers = [(b"x-request-id", b"mine")]
        await middleware({"type": "http", "method": "GET", "path": path, "headers": headers}, None, ignore)
    await asyncio.sleep(0)

log.configure(sys.argv[1])
if sys.argv[2] == "records":
    logging.getLogger().addHandler(logging.NullHandler())
asyncio.run(main())
"""


def logged(log_format: str, how: str) -> list[str]:
    """The lines that three requests write, without their times."""
    command = [sys.executable, "-c", PROGRAM, log_format, how]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return re.sub(r"\d{4}-\d\d-\d\d[ T][\d:.,]+|[\d.]+ ms|(?<=\"ms\": )[\d.]+", "T", done.stderr).splitlines()


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_lines_written_together_are_those_of_single_records(log_format: str) -> None:
    lines = logged(log_format, "together")
    assert lines == logged(log_format, "records")
    assert len(lines) == 3
    assert "secret" not in str(lines)
    if log_format == "text":
        assert lines[0] == "T INFO    tally.access mine GET /a 200 T 2 bytes k 'a shop'"
