"""Logs as JSON: every line is an object with the fields of its event."""

import json
import logging
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import log, text
from runtime.errors import SettingsError
from runtime.process.children import module_command
from runtime.settings import Settings
from tests.http_lab import api_of, with_key


async def test_a_request_is_logged_as_an_object_with_its_parts(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
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


def test_event_text_cannot_start_a_line_of_a_text_log() -> None:
    record = logging.makeLogRecord({"name": "tally.worker", "msg": "refused %s", "args": ("a\n2026 INFO\x1b[2J",)})
    line = log.formatter("text").format(record)
    assert line.endswith(r"tally.worker refused a\n2026 INFO\x1b[2J")


def test_an_error_is_one_line() -> None:
    program = """
import logging
from runtime import log, text
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


def _lines(program: str) -> list[str]:
    """Return the lines that a process with this logging writes to standard error."""
    program = f"import logging\nfrom runtime import log\nlog.configure()\n{program}"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60)
    return [line.split(maxsplit=3)[3] for line in done.stderr.splitlines()]


def test_errors_of_the_kafka_client_are_logged() -> None:
    lines = _lines("""
client = logging.getLogger("aiokafka.consumer.group_coordinator")
client.error("LeaveGroup request failed: %s", "why")
client.warning("nothing to worry about")
""")
    assert lines == ["aiokafka.consumer.group_coordinator LeaveGroup request failed: why"]


def test_repeated_log_lines_of_a_library_are_bounded_and_counted() -> None:
    """Each kind has its own bound; lines of our own have none."""
    lines = _lines("""
import itertools
log.time.monotonic = itertools.chain([0] * 199, itertools.repeat(log.FLOOD_S)).__next__
client, ours = logging.getLogger("aiokafka.client"), logging.getLogger("tally.worker")
for number in range(101):
    client.error("no connection: %d", number)
    ours.error("not stored")
    if number < 99:
        logging.getLogger("asyncio").error("Task exception was never retrieved")
""")
    of_client = [line for line in lines if line.startswith("aiokafka.client")]
    shown = [f"aiokafka.client no connection: {number}" for number in (0, 1, 2, 100)]
    assert of_client == [*shown[:3], f"{shown[3]} (97 lines like this one were suppressed since the last)"]
    assert sum(line.startswith("asyncio") for line in lines) == 3
    assert lines.count("tally.worker not stored") == 101


@given(st.lists(st.tuples(st.integers(0, 2), st.floats(0, 40)), max_size=60))
def test_a_written_line_counts_its_suppressed_repeats(lines: list[tuple[int, float]]) -> None:
    """Every line is either shown or counted, and no kind is shown more often than its bound."""
    flood, now = log.FloodFilter(), 0.0
    left_out, shown = {0: 0, 1: 0, 2: 0}, dict[int, list[float]]({0: [], 1: [], 2: []})
    for kind, later in lines:
        now += later
        record = logging.LogRecord("aiokafka.client", logging.ERROR, "client.py", kind, "lost %s", ("it",), None)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(time, "monotonic", partial(float, now))
            passes = flood.filter(record)
        if passes:
            remark = f" ({left_out[kind]} lines like this one were suppressed since the last)" if left_out[kind] else ""
            assert record.getMessage() == f"lost it{remark}"
            shown[kind].append(now)
        left_out[kind] = 0 if passes else left_out[kind] + 1
    for times in shown.values():
        for first in times:
            assert sum(first <= at < first + log.FLOOD_S for at in times) < 2 * log.FLOOD_LINES + 1


def test_a_failed_start_is_logged_as_json(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TALLY_")}
    environment |= {"TALLY_LOG_FORMAT": "json", "TALLY_DATA_DIR": str(tmp_path)}
    command = module_command("consumers.worker")
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == SettingsError.exit_code
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert "TALLY_CLICKHOUSE is not set" in lines[-1]["message"]
    assert lines[-1]["level"] == "ERROR"


SECRETS = ("sEcReT-0123456789", "s3c%2Fret", "pass:w0rd")


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.parametrize(
    "line",
    [
        "cannot reach http://tally:sEcReT-0123456789@127.0.0.1:8123/?query=1",
        "rediss://:s3c%2Fret@valkey:6379/0 and http://u:s3c%2Fret@h",
        "curl -H 'Authorization: Bearer sEcReT-0123456789' http://127.0.0.1",
        "{'authorization': 'Bearer pass:w0rd', 'host': 'h'}",
        "the key tk_1f2e3d4c_sEcReT-0123456789 is not known",
        "POST /beacon?token=tb_sEcReT-0123456789.sEcReT-0123456789",
        "the root key root_sEcReT-0123456789sEcReT-0123456789sEcReT-01",
    ],
)
def test_keys_and_passwords_are_masked_anywhere_in_a_line(line: str, log_format: log.LogFormat) -> None:
    record = logging.LogRecord("tally", logging.ERROR, "x.py", 1, "%s", (line,), (ValueError, ValueError(line), None))
    line = log.formatter(log_format).format(record)
    assert not [secret for secret in SECRETS if secret in line], line
    assert text.MASK in line


def test_secrets_of_the_process_are_masked_in_any_form(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(text, "_hidden", [])
    monkeypatch.setenv("TALLY_API_KEY", "a-key-of-my-own")
    monkeypatch.setenv("TALLY_KAFKA_PASSWORD", "kafkas-password")
    monkeypatch.setenv("TALLY_REDIS", "redis://:valkeys-password@r:1")
    Settings.load(tmp_path)
    for secret in ("a-key-of-my-own", "kafkas-password", "valkeys-password"):
        assert text.mask_secrets(f"refused: <{secret}>") == f"refused: <{text.MASK}>"


def test_ordinary_lines_are_unchanged() -> None:
    for line in (
        "r-1 GET /v1/health 200 0.3 ms 15 bytes tk_1f2e3d4c 'default'",
        "tally_worker_events_total, see http://127.0.0.1:8080/metrics?x=a@b",
        "user root_cause at kafka-1:9092: postgres://host/db",
    ):
        assert text.mask_secrets(line) == line
