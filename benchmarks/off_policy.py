"""`make bench-off-policy`: off-policy estimates beside those of Open Bandit Pipeline, on the same arrays.

The logs are Open Bandit's three campaigns and one of random numbers. Values must agree but for rounding; times are
those of the values with intervals for Tally, and of the values alone for the peer, which bootstraps intervals.
"""

import json
import subprocess
import time
from typing import Any

import numpy as np

from benchmarks import command, environments
from learning.estimators.off_policy import LoggedResults, estimate_value
from learning.estimators.reward_model import FOLDS, ModelledResults, PolicyEntries, expected_rewards
from learning.scope import Refusal
from producers.open_bandit import find_wheel, read_log
from runtime.settings import Settings

CAMPAIGNS = ("all", "men", "women")
CONTEXTS = 3
TIMEOUT_S = 600


def open_bandit(campaign: Any) -> LoggedResults:
    """Return the log of bts with the policy random, whose documents are alike."""
    rows = [each.interaction for each in read_log("bts", campaign, "default")]
    reward = np.array([float("click" in row.interaction_type) for row in rows])
    propensity = np.array([float((row.metadata or {})["propensity"]) for row in rows])
    item = np.unique([row.feature_id for row in rows], return_inverse=True)[1].astype(np.int64)
    position = np.array([row.position for row in rows])
    return _modelled(reward, propensity, item, position)


def drawn(rows: int, seed: int) -> LoggedResults:
    """Return a log of random numbers."""
    chance = np.random.default_rng(seed)
    item, position = chance.integers(0, 1_000, rows), chance.integers(0, CONTEXTS, rows)
    weight = chance.uniform(0.5, 1.5, rows)
    return _modelled(chance.choice([0.0, 1.0, 3.0], rows), 1 / (int(item.max()) + 1) / weight, item, position)


def _modelled(reward: Any, propensity: Any, item: Any, position: Any) -> LoggedResults:
    items, rows = int(item.max()) + 1, len(reward)
    alike = PolicyEntries(np.zeros(items, np.int64), np.arange(items), np.full(items, 1 / items))
    fold = np.arange(rows) % FOLDS
    results = ModelledResults(reward, position, item, np.zeros(rows, np.int64), fold)
    expected, of_policy = expected_rewards(results, alike)
    probability = np.full(rows, 1 / items)
    return LoggedResults(reward, propensity, probability, np.arange(rows), expected, of_policy)


def own(log: LoggedResults) -> tuple[dict[str, float], float]:
    """Return Tally's values, and the seconds that they take. Raises Refusal."""
    begun = time.perf_counter()
    found = estimate_value(log, ("ips", "snips", "dr"), min_ess=1)
    return {each.estimator: each.value for each in found.estimates}, time.perf_counter() - begun


def peer(logs: list[LoggedResults], options: Any) -> list[dict[str, Any]]:
    """Return the peer's values. Raises PeerUnavailable."""
    found = environments.prepare("obp", options.folder, Settings().cache_dir)
    arrays = [
        {name: values.tolist() for name, values in each._asdict().items() if name != "execution"} for each in logs
    ]
    given = json.dumps({"wheel": str(find_wheel()), "logs": arrays})
    done = subprocess.run(
        [str(found.python), str(found.script)],
        input=given + "\n",
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )
    if done.returncode:
        raise RuntimeError(f"obp ended with {done.returncode}: {done.stderr[-1_000:]}")
    values: list[dict[str, Any]] = json.loads(done.stdout)
    return values


def main() -> None:
    """Run the benchmark."""
    parser = command.parser_of("bench-off-policy", __doc__, "ARGS='--rows 100000'")
    parser.add_argument("--rows", type=int, default=100_000, help="rows of the log of random numbers")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    logs = {name: open_bandit(name) for name in CAMPAIGNS} | {"random numbers": drawn(options.rows, options.seed)}
    try:
        answers = peer([*logs.values()], options)
    except environments.PeerUnavailable as error:
        print(f"obp is skipped: {error}", flush=True)
        return
    rows, found = [], []
    for (name, log), theirs in zip(logs.items(), answers, strict=True):
        try:
            values, seconds = own(log)
        except Refusal as refusal:
            print(f"{name}: refused: {refusal}", flush=True)
            continue
        for estimator, value in values.items():
            other = theirs["values"][estimator]
            rows.append((name, estimator, f"{value:.12f}", f"{other:.12f}", f"{value - other:+.1e}"))
            found.append({"log": name, "estimator": estimator, "tally": value, "obp": other})
        print(f"{name}: {seconds * 1e3:.1f} ms, obp {theirs['s'] * 1e3:.1f} ms", flush=True)
    command.show(["log", "estimator", "tally", "obp 0.4.1", "difference"], rows)
    command.save(options.folder, "off_policy", found)


if __name__ == "__main__":
    main()
