"""Two API processes on one port: their metrics add up, and no count goes down when one of them is killed."""

import os
import signal
import subprocess
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from runtime.ports import free_port, responds_to_http
from tests.cli_lab import CLEAN, TALLY
from tests.http_lab import BEARER, EVENT, PATH, with_key
from tests.lab import Lab
from tests.waiting import eventually

ANSWERS = 20
"""Requests on connections of their own, of which each process gets some, but for one time in 500,000."""


def accepted_by(url: str) -> int:
    """Accepted events, as one of the processes counts them."""
    families = text_string_to_metric_families(httpx.get(f"{url}/metrics").text)
    name = "tally_http_events_accepted_total"
    return int(sum(each.value for family in families for each in family.samples if each.name == name))


def test_metrics_of_processes_on_one_port_add_up(lab: Lab, tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environment = {**CLEAN, **with_key(lab.settings).as_environment()}
    command = [TALLY, "serve", "all", "--workers", "2", "--port", str(port)]

    def children() -> set[int]:
        found = Path(f"/proc/{serving.pid}/task/{serving.pid}/children").read_text().split()
        return {int(pid) for pid in found if "tally.serve" in Path(f"/proc/{pid}/cmdline").read_text()}

    def create(count: int) -> None:
        for _ in range(count):
            assert httpx.post(f"{url}{PATH}", json=EVENT, headers=BEARER).status_code == 200

    def all_count(expected: int) -> bool:
        answers = [accepted_by(url) for _ in range(ANSWERS)]
        assert max(answers) <= expected
        return answers == [expected] * ANSWERS

    log = tmp_path / "serve.log"
    with log.open("wb") as output, subprocess.Popen(command, env=environment, stderr=output) as serving:
        eventually(lambda: len(children()) == 2 and responds_to_http(f"{url}/v1/ready"))
        create(30)
        eventually(lambda: all_count(30))
        first = children()
        os.kill(min(first), signal.SIGKILL)
        eventually(lambda: len(children() | first) == 3 and responds_to_http(f"{url}/v1/ready"))
        assert accepted_by(url) == 30
        create(10)
        eventually(lambda: all_count(40))
        serving.send_signal(signal.SIGTERM)
        assert serving.wait(60) == 0, log.read_text()
