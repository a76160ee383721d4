"""A real Prometheus scrapes a worker and an API, and answers what dashboard and alerts ask: `make test-monitoring`."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import yaml

from deploy.embedded.stack import Stack
from deploy.monitoring.dashboard import RATE_OVER
from runtime.ports import free_port
from tests.cluster_lab import running_children
from tests.http_lab import BEARER
from tests.lab import Lab
from tests.monitoring_lab import running_processes, send_all_kinds
from tests.waiting import eventually_async

FOLDER = Path(__file__).parent.parent.parent / "deploy" / "monitoring"
PANELS = json.loads((FOLDER / "dashboard.json").read_text())["panels"]
QUERIES = [target["expr"].replace(RATE_OVER, "30s") for panel in PANELS for target in panel.get("targets", ())]
NOT_HAPPENING = (
    "tally_retries_total",
    "tally_http_connections_refused_total",
    "tally_http_redis_bypassed_total",
    "tally_worker_reject_fuses_tripped",
    "tally_partition_stuck_offset",
    "tally_tracking_fault_excess",
    "tally_weight_days_at_clip",
)
"""Counted by label, and not at all until they happen."""


async def test_every_panel_has_data(lab: Lab, stack: Stack, tmp_path: Path) -> None:
    async with running_processes(lab, tmp_path) as urls, httpx.AsyncClient(headers=BEARER) as client:
        targets = [url.removeprefix("http://") for url in urls]
        with running_children() as children:
            port = free_port()
            command = [
                program("prometheus"),
                f"--config.file={configuration(tmp_path, targets)}",
                f"--storage.tsdb.path={tmp_path / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ]
            children.start("prometheus", command, log_path=tmp_path / "prometheus.log")

            async def ask(query: str) -> list[Any]:
                answer = (await client.get(f"http://127.0.0.1:{port}/api/v1/query", params={"query": query})).json()
                assert answer["status"] == "success", answer
                found: list[Any] = answer["data"]["result"]
                return found

            async def is_scraped() -> bool:
                try:
                    found = await ask("min_over_time(up[5s]) == 1 and count_over_time(up[1m]) >= 5")
                except (httpx.TransportError, json.JSONDecodeError):
                    return False
                return len(found) == 2

            await eventually_async(is_scraped)
            await send_all_kinds(lab, client, urls.api)
            for query in QUERIES:
                if any(name in query for name in NOT_HAPPENING):
                    await ask(query)
                else:
                    await eventually_async(lambda query=query: _has_data(ask, query))  # type: ignore[misc]
            alerts = (await client.get(f"http://127.0.0.1:{port}/api/v1/rules")).json()["data"]["groups"]
            rules = [rule for group in alerts for rule in group["rules"]]
            assert len(rules) == sum(len(group["rules"]) for group in _rules()["groups"])
            assert not [rule for rule in rules if rule["health"] == "err"], rules


async def _has_data(ask: Any, query: str) -> bool:
    return any(each["value"][1] != "NaN" for each in await ask(query))


def program(name: str) -> str:
    """Where it is; Debian's package `prometheus` has both."""
    found = shutil.which(name)
    assert found, f"{name} is not installed: apt-get install prometheus"
    return found


def configuration(folder: Path, targets: list[str]) -> Path:
    """Scrape these, with the alerts."""
    path = folder / "prometheus.yml"
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(FOLDER / "alerts.yml")],
        "scrape_configs": [{"job_name": "tally", "static_configs": [{"targets": targets}]}],
    }
    path.write_text(yaml.safe_dump(config))
    return path


def _rules() -> Any:
    return yaml.safe_load((FOLDER / "alerts.yml").read_text())


def test_alerts_fire_when_they_should_and_not_otherwise(tmp_path: Path) -> None:
    """Prometheus's own unit tests of rules: `alerts_test.yml`."""
    ran = subprocess.run(
        [program("promtool"), "test", "rules", str(Path(__file__).parent / "alerts_test.yml")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
