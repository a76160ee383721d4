"""Properties of docker-compose.yml, checked without Docker. `make test-containers` runs the image."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docker-compose.yml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
ROLES = {"init": "admin", "collector": "collector", "reader": "reader", "consumer": "worker"}
STORES = ("kafka", "valkey", "clickhouse")


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_pinned_and_bound_to_this_machine(name: str) -> None:
    service = SERVICES[name]
    assert re.fullmatch(r"\$\{\w+:-[\w/.-]+:v?\d[\w.-]*\}", service["image"]), service["image"]
    for port in service.get("ports", ()):
        assert port.startswith("127.0.0.1:")


@pytest.mark.parametrize("name", [*ROLES, "console"])
def test_tally_services_are_read_only_and_have_no_capabilities(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["tmpfs"] == ["/tmp"]  # noqa: S108


def test_awaited_services_have_a_health_check_or_an_end() -> None:
    assert set(SERVICES["grafana"]["depends_on"]) <= set(SERVICES)
    for name in ROLES:
        for awaited, how in SERVICES[name]["depends_on"].items():
            if how["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[awaited]
            else:
                assert how["condition"] == "service_completed_successfully"
                assert SERVICES[awaited]["restart"] == "no"


def test_no_secret_has_a_default() -> None:
    secrets = re.findall(r"\$\{(\w*_(?:PASSWORD|KEY|SECRET))(.*?)\}", TEXT)
    assert len(secrets) >= 6
    assert not [name for name, rest in secrets if rest.startswith(":-") or rest.startswith("-")]
    required = {name for name, rest in secrets if rest.startswith(":?")}
    assert required == {name for name, _ in secrets}, "each is asked for somewhere"


@pytest.mark.parametrize("name", SERVICES)
def test_no_secret_is_in_a_command(name: str) -> None:
    """Everybody on the machine may read the arguments of a process, a health check's too."""
    service = SERVICES[name]
    words = str(service.get("command", "")) + str(service.get("healthcheck", {}).get("test", ""))
    assert not re.search(r"\$\{|PASSWORD|API_KEY|SECRET", words)


@pytest.mark.parametrize(("name", "role"), ROLES.items())
def test_a_role_has_only_its_own_password(name: str, role: str) -> None:
    environment = SERVICES[name]["environment"]
    assert set(re.findall(r"\$\{(\w+_PASSWORD)", str(environment))) == {f"{role.upper()}_PASSWORD"}
    assert environment["TALLY_KAFKA_USERNAME"] == f"tally_{role}"
    for address in (environment[each] for each in ("TALLY_REDIS", "TALLY_CLICKHOUSE") if each in environment):
        assert re.match(rf"\w+://tally_{role}:", address)
    assert ("TALLY_API_KEY" in environment) is (name in {"collector", "reader"})


def test_the_console_reaches_only_the_reader() -> None:
    console = SERVICES["console"]
    assert set(console["environment"]) == {"TALLY_CONSOLE_API", "TALLY_CONSOLE_DOCS", "TALLY_CONSOLE_SECRETS"}
    assert console["environment"]["TALLY_CONSOLE_API"] == "http://reader:8080"
    assert console["networks"] == ["edge"]


def test_each_store_is_reachable_only_for_services_that_need_it() -> None:
    networks = COMPOSE["networks"]
    for store in STORES:
        assert networks[store] == {"internal": True}
        inside = {name for name, service in SERVICES.items() if store in service["networks"]}
        named = {name for name, service in SERVICES.items() if f"{store}:" in str(service.get("environment"))}
        assert inside == named | {store}
    assert not [name for name in ("prometheus", "grafana") if set(SERVICES[name]["networks"]) & set(STORES)]
    assert not [name for name in (*STORES, "init", "consumer") if "edge" in SERVICES[name]["networks"]]


def test_new_passwords_are_complete_and_random() -> None:
    """Different on every run, long, and without characters that need quoting."""
    made = [subprocess.run([ROOT / "deploy/compose-env.sh"], check=True, capture_output=True, text=True) for _ in "ab"]
    given, others = (dict(line.split("=", 1) for line in each.stdout.splitlines()) for each in made)
    assert set(given) == set(re.findall(r"\$\{(\w+):\?", TEXT))
    assert all(re.fullmatch(r"(root_)?[A-Za-z0-9]{43}", value) for value in given.values())
    assert not set(given.values()) & set(others.values())
    assert len(set(given.values())) == len(given)


def test_digests_come_only_from_docker(tmp_path: Path) -> None:
    """With a Docker that has only one of the images."""
    docker = tmp_path / "docker"
    docker.write_text(
        "#!/bin/sh\nfor image; do :; done\n"
        'case "$image" in valkey*) echo "valkey/valkey@sha256:0123abcd" ;; *) exit 1 ;; esac\n'
    )
    docker.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    script = ROOT / "deploy/images/digests.sh"
    done = subprocess.run([script], check=False, capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    assert re.fullmatch(r"VALKEY_IMAGE=valkey/valkey:[\d.]+@sha256:0123abcd\n", done.stdout)
    assert "apache/kafka" in done.stderr
    assert "tally:0.1.0" in done.stderr
