"""`make bench-propensities`: the position-based model beside that of clax (JAX), on the same counts.

The counts are drawn from the exact expectations of the simulation for one retriever and device. Both maximise the same
likelihood, so the curves must agree; the largest relative difference is printed.
"""

import argparse
import json
import subprocess
import time

import numpy as np

from benchmarks import command, environments
from learning.counts import BUCKETS, ClickCounts
from learning.estimators.cells import Floats, GroupedCounts, ItemCells, cells_of_rows, seen_elsewhere
from learning.estimators.harvesting import log_propensities as harvested
from learning.estimators.position_model import log_propensities as modelled
from learning.propensities import curves_of
from producers.simulation.behaviour import DEVICES
from runtime.settings import Settings
from tests.learning.drawn import drawn

RETRIEVER = "dense"
TIMEOUT_S = 1_800


def cells_of(counts: ClickCounts) -> tuple[ItemCells, Floats, Floats]:
    """Return the counts by item and position, of items that were shown at two positions.

    Others say nothing about examination, but for the bound of attraction at 1: an item that was clicked at each of its
    few impressions at a low position would have clax raise the examination of that position.
    """
    cells, first_rows = cells_of_rows(counts.item, counts.position)
    impressions, clicks = (
        GroupedCounts(first_rows, counts.bucket, values.astype(np.float64), BUCKETS).weighed(np.ones(BUCKETS))
        for values in (counts.impressions, counts.clicks)
    )
    kept = seen_elsewhere(cells, impressions)
    return cells.compressed(kept), impressions[kept], clicks[kept]


def peer(options: argparse.Namespace, cells: ItemCells, impressions: Floats, clicks: Floats) -> tuple[Floats, float]:
    """Return the curve of clax and its seconds. Raises PeerUnavailable."""
    found = environments.prepare("clax", options.folder, Settings().cache_dir)
    given = {
        "item": cells.item.tolist(),
        "position": cells.position.tolist(),
        "impressions": impressions.tolist(),
        "clicks": clicks.tolist(),
        "steps": options.steps,
    }
    done = subprocess.run(
        [str(found.python), str(found.script)],
        input=json.dumps(given) + "\n",
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )
    if done.returncode:
        raise environments.PeerUnavailable(f"clax ended with {done.returncode}: {done.stderr[-1_000:]}")
    answer = json.loads(done.stdout.splitlines()[-1])
    return np.array(answer["curve"]), float(answer["seconds"])


def main() -> None:
    """Fit each device, and print curves, differences and times."""
    parser = command.parser_of("bench-propensities", __doc__, 'ARGS="--events 1000000"')
    parser.add_argument("--events", type=command.at_least(1_000, int), default=1_000_000, help="size of the log")
    parser.add_argument("--steps", type=command.at_least(10, int), default=20_000, help="steps of clax's optimiser")
    options = parser.parse_args()
    for (device, log), truth in zip(drawn(RETRIEVER), DEVICES, strict=True):
        counts = log.draw(options.events, np.random.default_rng(1))
        cells, impressions, clicks = cells_of(counts)
        begun = time.perf_counter()
        logs = modelled(cells, impressions, clicks)
        seconds = time.perf_counter() - begun
        own = np.exp(logs - logs[0])
        pairs = harvested(cells, impressions, clicks)
        begun = time.perf_counter()
        curves_of({device: counts}, "em")
        whole = time.perf_counter() - begun
        print(f"{device}: {len(cells.item):,} counts, {int(impressions.sum()):,} impressions")
        print("  truth      ", *(f"{truth.examination(place):.4f}" for place in range(truth.depth)))
        print("  harvesting ", *(f"{value:.4f}" for value in np.exp(pairs - pairs[0])))
        print("  em         ", *(f"{value:.4f}" for value in own), f"in {seconds * 1e3:,.1f} ms")
        try:
            curve, peer_s = peer(options, cells, impressions, clicks)
        except environments.PeerUnavailable as error:
            print(f"  clax is skipped: {error}")
            continue
        print("  clax       ", *(f"{value:.4f}" for value in curve), f"in {peer_s * 1e3:,.1f} ms, without compilation")
        print(f"  largest relative difference: {np.abs(own / curve - 1).max():.1e}")
        print(f"  em with intervals from 200 replicates: {whole:.2f} s", flush=True)


if __name__ == "__main__":
    main()
