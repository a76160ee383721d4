"""Logs as JSON: every line an object, with what its event has."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from runtime import log
from runtime.errors import SettingsError
from runtime.settings import Settings
from tests.http_lab import api_of, with_key


async def test_a_request_is_an_object_with_its_parts(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "tally.access"):
        async with api_of(with_key(settings), "reader") as api:
            await api.get("/v1/health?token=secret", headers={"X-Request-Id": "r-1", "Authorization": ""})
    (record,) = (each for each in caplog.records if each.name == "tally.access")
    access = json.loads(log.formatter("json").format(record))
    assert (access["request_id"], access["path"], access["status"], access["key_id"]) == ("r-1", "/v1/health", 200, "-")
    assert access["message"].startswith("r-1 GET /v1/health 200 ")
    assert "secret" not in str(access)
    assert access["time"].endswith("+00:00")
    assert access["level"] == "INFO"


def test_text_from_an_event_starts_no_line_of_a_text_log() -> None:
    record = logging.makeLogRecord({"name": "tally.worker", "msg": "refused %s", "args": ("a\n2026 INFO\x1b[2J",)})
    line = log.formatter("text").format(record)
    assert line.endswith(r"tally.worker refused a\n2026 INFO\x1b[2J")


def test_an_error_is_one_line() -> None:
    program = """
import logging
from runtime import log
log.configure("json")
try:
    raise ValueError("two\\nlines")
except ValueError:
    logging.getLogger("tally.worker").exception("it\\nfailed")
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60)
    (line,) = done.stderr.splitlines()
    assert json.loads(line)["message"] == "it\nfailed"
    assert "two\nlines" in json.loads(line)["exc_info"]


def test_a_process_that_cannot_start_says_so_as_json(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TALLY_")}
    environment |= {"TALLY_LOG_FORMAT": "json", "TALLY_DATA_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "consumers.worker"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == SettingsError.exit_code
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert "TALLY_CLICKHOUSE is not set" in lines[-1]["message"]
    assert lines[-1]["level"] == "ERROR"
