"""IPS, SNIPS and DR of Open Bandit Pipeline (`obp`) on arrays that another process has prepared.

It runs in a separate environment; options are read as JSON, the result is written as JSON. `obp.ope.estimators` is
imported from the wheel, without the initialization of its packages and without torch: it takes gigabytes, and the
estimates over numpy arrays only ask whether an array is a tensor.
"""

import json
import sys
import time
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np


def main() -> None:
    """Estimate the value of the policy in each of the given logs."""
    options = json.loads(sys.stdin.readline())
    for name in ("obp", "obp.ope"):
        package = sys.modules[name] = ModuleType(name)
        vars(package)["__path__"] = ["/".join((options["wheel"], *name.split(".")))]
    torch = sys.modules["torch"] = ModuleType("torch")
    vars(torch)["Tensor"] = type("Tensor", (), {})
    estimators = import_module("obp.ope.estimators")

    found = []
    for log in options["logs"]:
        rows = len(log["reward"])
        # Two actions: the shown document is action 0, all others are action 1.
        action = np.zeros(rows, int)
        shown = np.array(log["probability"])
        distribution = np.stack([shown, 1 - shown], axis=1)[:, :, None]
        expected, of_policy = np.array(log["expected"]), np.array(log["expected_of_policy"])
        other = np.where(shown < 1, (of_policy - shown * expected) / np.where(shown < 1, 1 - shown, 1), 0)
        arguments: dict[str, Any] = {
            "reward": np.array(log["reward"]),
            "action": action,
            "position": np.zeros(rows, int),
            "pscore": np.array(log["propensity"]),
            "action_dist": distribution,
        }
        model = np.stack([expected, other], axis=1)[:, :, None]
        begun = time.perf_counter()
        values = {
            "ips": estimators.InverseProbabilityWeighting().estimate_policy_value(**arguments),
            "snips": estimators.SelfNormalizedInverseProbabilityWeighting().estimate_policy_value(**arguments),
            "dr": estimators.DoublyRobust().estimate_policy_value(**arguments, estimated_rewards_by_reg_model=model),
        }
        found.append(
            {"values": {name: float(value) for name, value in values.items()}, "s": time.perf_counter() - begun}
        )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
