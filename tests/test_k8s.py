"""deploy/k8s: each object fits the published schemas, and they fit one another. `make test-k8s` renders them first."""

import itertools
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

FOLDER = Path(__file__).parent.parent / "deploy" / "k8s"
VERSION = "1.31"
PODS = ("Deployment", "StatefulSet", "Job")
NAME = "app.kubernetes.io/name"


def objects_in(*paths: Path) -> list[dict[str, Any]]:
    """All objects of some files."""
    return list(itertools.chain.from_iterable(yaml.safe_load_all(path.read_text()) for path in paths))


def assert_sound(objects: list[dict[str, Any]]) -> None:
    """What is so of all of them together."""
    pods = [each for each in objects if each["kind"] in PODS]
    assert len(pods) == 4
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
    """Raise for what Kubernetes would not take."""
    kubernetes_validate.validate(each, VERSION, strict=True)


FILES = [path for path in sorted(FOLDER.glob("*.yaml")) if path.name != "kustomization.yaml"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_an_object_fits_its_schema(path: Path) -> None:
    for each in objects_in(path):
        validate(each)


def test_they_fit_one_another() -> None:
    assert_sound(objects_in(*FILES))


def test_all_are_part_of_the_kustomization() -> None:
    (kustomization,) = objects_in(FOLDER / "kustomization.yaml")
    assert {*kustomization["resources"], "secret.example.yaml"} == {path.name for path in FILES}


def test_a_typo_would_be_found() -> None:
    (job,) = objects_in(FOLDER / "init.yaml")
    job["spec"]["backofLimit"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        validate(job)
