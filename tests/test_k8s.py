"""deploy/k8s: each object fits the published schemas, and they fit one another. `make test-k8s` renders them first."""

import itertools
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kubernetes_validate
import pytest
import yaml

ACCESS = Path(__file__).parent.parent / "deploy" / "access"
FOLDER = Path(__file__).parent.parent / "deploy" / "k8s"
VERSION = "1.31"
PODS = ("Deployment", "StatefulSet", "Job")
NAME = "app.kubernetes.io/name"


def objects_in(*paths: Path) -> list[dict[str, Any]]:
    """All objects of some files."""
    return list(itertools.chain.from_iterable(yaml.safe_load_all(path.read_text()) for path in paths))


def assert_consistent(objects: list[dict[str, Any]]) -> None:
    """Assert the invariants of all manifests together."""
    pods = [each for each in objects if each["kind"] in PODS]
    assert len(pods) == 5
    labels = {each["metadata"]["name"]: each["spec"]["template"]["metadata"]["labels"][NAME] for each in pods}
    for pod in pods:
        assert_hardened(pod["spec"]["template"]["spec"])
    for each in objects:
        if each["kind"] == "PodDisruptionBudget":
            assert each["spec"]["selector"]["matchLabels"][NAME] == labels[each["metadata"]["name"]]
        if each["kind"] == "Service":
            assert each["spec"]["selector"][NAME] == labels[each["metadata"]["name"]]
        if each["kind"] in {"Deployment", "StatefulSet"}:
            assert each["spec"]["selector"]["matchLabels"][NAME] == labels[each["metadata"]["name"]]
            (container,) = each["spec"]["template"]["spec"]["containers"]
            assert {"startupProbe", "livenessProbe", "readinessProbe"} <= set(container)
            ports = {port["name"] for port in container["ports"]}
            assert container["readinessProbe"]["httpGet"]["port"] in ports


def assert_hardened(spec: dict[str, Any]) -> None:
    """Not root, nothing to write but a bounded /tmp, bounded memory, no secret spelled out."""
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert all(volume["emptyDir"]["sizeLimit"] for volume in spec["volumes"])
    for container in spec["containers"]:
        own = container["securityContext"]
        assert own == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]
        assert not [each for each in container.get("env", ()) if "value" in each]


def validate(each: dict[str, Any]) -> None:
    """Raise for an object that Kubernetes would refuse."""
    kubernetes_validate.validate(each, VERSION, strict=True)


FILES = [path for path in sorted(FOLDER.glob("*.yaml")) if path.name != "kustomization.yaml"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_an_object_matches_its_schema(path: Path) -> None:
    for each in objects_in(path):
        validate(each)


def test_the_objects_are_consistent() -> None:
    assert_consistent(objects_in(*FILES))


def test_all_files_are_part_of_the_kustomization() -> None:
    (kustomization,) = objects_in(FOLDER / "kustomization.yaml")
    assert {*kustomization["resources"], "secret.example.yaml"} == {path.name for path in FILES}


STORES = {"kafka": 9093, "clickhouse": 8443, "redis": 6379}
NEEDED = {
    "collector": {"TALLY_KAFKA_USERNAME", "TALLY_KAFKA_PASSWORD", "TALLY_REDIS", "TALLY_CLICKHOUSE"},
    "reader": {"TALLY_KAFKA_USERNAME", "TALLY_KAFKA_PASSWORD", "TALLY_REDIS", "TALLY_CLICKHOUSE"},
    "consumer": {"TALLY_KAFKA_USERNAME", "TALLY_KAFKA_PASSWORD", "TALLY_REDIS", "TALLY_CLICKHOUSE"},
    "init": {"TALLY_KAFKA_USERNAME", "TALLY_KAFKA_PASSWORD", "TALLY_CLICKHOUSE"},
    "console": {"TALLY_CONSOLE_SECRETS"},
}
"""Exact settings of each role."""


def test_each_role_has_a_secret_of_its_own() -> None:
    """With a user that no other role has, and which has rights in `deploy/access`."""
    secrets = {each["metadata"]["name"]: each["stringData"] for each in objects_in(FOLDER / "secret.example.yaml")}
    pods = {
        each["metadata"]["name"].removeprefix("tally-"): each for each in objects_in(*FILES) if each["kind"] in PODS
    }
    assert set(pods) == set(NEEDED)
    users = {}
    for role, pod in pods.items():
        (container,) = pod["spec"]["template"]["spec"]["containers"]
        named = [each["secretRef"]["name"] for each in container["envFrom"] if "secretRef" in each]
        assert named == [f"tally-{role}"]
        values = secrets.pop(named[0])
        assert set(values) == NEEDED[role]
        if role == "console":  # it reaches no store
            continue
        user = users[role] = values["TALLY_KAFKA_USERNAME"]
        for url in (values[name] for name in ("TALLY_REDIS", "TALLY_CLICKHOUSE") if name in values):
            assert urlsplit(url).username == user
            assert urlsplit(url).scheme in {"rediss", "https"}
        for file in ("kafka.sh", "clickhouse.sql", *(("valkey.acl",) if "TALLY_REDIS" in values else ())):
            assert re.search(rf"\b{user}\b", (ACCESS / file).read_text()), (role, file)
    assert len(set(users.values())) == len(users)
    assert not secrets


def test_no_secret_is_in_a_command() -> None:
    for each in objects_in(*FILES):
        if each["kind"] in PODS:
            (container,) = each["spec"]["template"]["spec"]["containers"]
            assert not re.search(r"PASSWORD|KEY|SECRET|://|\$\((?!POD_NAME)", str(container["command"]))


def egress_of(policies: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """The rules by which pods of a name may speak to others."""
    return [
        rule
        for policy in policies
        if "Egress" in policy["spec"]["policyTypes"] and _selects(policy["spec"]["podSelector"], name)
        for rule in policy["spec"].get("egress", ())
    ]


def _selects(selector: dict[str, Any], name: str) -> bool:
    expressions = selector.get("matchExpressions", ())
    return all(name in each["values"] for each in expressions) and selector.get("matchLabels", {NAME: name}) == {
        NAME: name
    }


def test_each_role_reaches_only_its_stores() -> None:
    policies = objects_in(FOLDER / "network.yaml")
    assert policies[0]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}, (
        "nothing, but for the others"
    )
    for role, known in NEEDED.items():
        rules = egress_of(policies, f"tally-{role}")
        peers = [peer for rule in rules for peer in rule["to"]]
        assert all(selector["matchLabels"] for peer in peers for selector in peer.values())
        ports = {port["port"] for rule in rules for port in rule["ports"]}
        needed = {port for store, port in STORES.items() if any(store.upper() in each for each in known)}
        assert ports == {53, *needed, *([8080] if role == "console" else [])}, role


def test_a_misspelled_field_is_found() -> None:
    (job,) = objects_in(FOLDER / "init.yaml")
    job["spec"]["backofLimit"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        validate(job)
