"""deploy/k8s as kustomize renders it (`make test-k8s`)."""

import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.test_k8s import assert_consistent, validate

ROOT = Path(__file__).parent.parent.parent


def rendered(folder: str) -> list[dict[str, Any]]:
    """Return the manifests that `kubectl apply --kustomize` would send."""
    command = [str(ROOT / ".tally" / "bin" / "kustomize"), "build", str(ROOT / folder)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    return list(yaml.safe_load_all(ran.stdout))


def test_the_rendered_objects_are_valid_and_consistent() -> None:
    objects = rendered("deploy/k8s")
    for each in objects:
        validate(each)
        assert each["kind"] == "Namespace" or each["metadata"]["namespace"] == "tally"
        assert each["metadata"]["labels"]["app.kubernetes.io/part-of"] == "tally"
    assert_consistent(objects)
    images = {
        container["image"]
        for each in objects
        if each["kind"] in {"Deployment", "StatefulSet", "Job"}
        for container in each["spec"]["template"]["spec"]["containers"]
    }
    assert images == {"tally:0.1.0", "tally-console:0.1.0"}


def test_keda_scales_the_consumer() -> None:
    """KEDA's kinds have no published schema here; only their rendering and targets are checked."""
    objects = rendered("deploy/k8s/keda")
    (scaled,) = [each for each in objects if each["kind"] == "ScaledObject"]
    assert scaled["spec"]["scaleTargetRef"] == {"kind": "StatefulSet", "name": "consumer"}
