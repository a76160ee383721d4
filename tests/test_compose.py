"""docker-compose.yml: what must be so of it, without Docker. `make test-containers` runs the image."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docker-compose.yml").read_text()
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(TEXT)["services"]
OURS = ("init", "collector", "reader", "consumer")


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_pinned_and_kept_to_this_machine(name: str) -> None:
    service = SERVICES[name]
    assert re.fullmatch(r"\$\{\w+:-[\w/.-]+:v?\d[\w.-]*\}", service["image"]), service["image"]
    for port in service.get("ports", ()):
        assert port.startswith("127.0.0.1:")


@pytest.mark.parametrize("name", OURS)
def test_our_processes_write_nowhere_and_may_do_nothing_else(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["tmpfs"] == ["/tmp"]  # noqa: S108


def test_what_others_wait_for_can_be_told() -> None:
    assert set(SERVICES["grafana"]["depends_on"]) <= set(SERVICES)
    for name in OURS:
        for awaited, how in SERVICES[name]["depends_on"].items():
            if how["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[awaited]
            else:
                assert (awaited, how["condition"]) == ("init", "service_completed_successfully")


def test_no_secret_has_a_default() -> None:
    secrets = re.findall(r"\$\{(\w*_(?:PASSWORD|KEY))(.*?)\}", TEXT)
    assert len(secrets) >= 4
    assert not [name for name, rest in secrets if rest.startswith(":-") or rest.startswith("-")]
    required = {name for name, rest in secrets if rest.startswith(":?")}
    assert required == {name for name, _ in secrets}, "each is asked for somewhere"


def test_the_dev_file_has_what_is_asked_for() -> None:
    given = dict(line.split("=", 1) for line in (ROOT / "deploy/dev.env").read_text().splitlines() if "=" in line)
    assert set(given) == set(re.findall(r"\$\{(\w+):\?", TEXT))
