"""Plan of a run, its fault and failpoint, as a function of the run's number and the campaign's seed."""

from random import Random
from typing import NamedTuple

from consumers.failpoints import FAILPOINTS
from tests.chaos.hostile_traffic import UNCOMPRESSED_BYTES
from tests.chaos.traffic import WINDOW_MS

FAULTS = (
    "crash",  # an exception between two steps
    "kill",  # SIGKILL
    "stop",  # SIGSTOP until others have its partitions, then SIGCONT
    "rebalance",  # another worker joins, and a third one leaves
    "flush",  # the claims are gone
    "rollback",  # the claims are as they were some batches ago: a failover to a replica that lagged
    "cut",  # one store's connections are reset, and new ones refused for a while
    "lost-answers",  # one store executes requests, and its answers are lost
    "half-requests",  # one store gets the beginning of a request, and then a reset
    "late-answers",  # one store's answers come after the client's timeout
    "late-requests",  # an insert reaches ClickHouse when its worker is dead and another one has begun to insert more
    "error-codes",  # ClickHouse answers 252, 241 and 159
    "slow",  # one store is slow
)
FOR_CONTROLS = ("crash", "kill", "stop", "flush", "lost-answers", "late-requests", "error-codes")
"""Runs of which at least one should catch each control."""
RESTART = "restart"  # one part of the stack is killed and started again
RUNS_PER_RESTART = 20
SELDOM = ("taken", "restored", "refused")
"""Failpoints that a worker may come to only once."""
STORES = ("kafka", "redis", "clickhouse")


class Plan(NamedTuple):
    """Plan of one run."""

    number: int
    seed: int
    failpoint: str
    fault: str
    passes: int
    store: str


def plan(number: int, campaign_seed: int, *, sample: bool = False) -> Plan:
    """Return the plan of a run: every pair of failpoint and fault equally often, or in a sample drawn at random."""
    seed = campaign_seed * 1_000_000 + number
    random = Random(seed)
    store = random.choice(STORES)
    if sample:
        failpoint, fault = random.choice(FAILPOINTS), random.choice(FOR_CONTROLS)
    elif number % RUNS_PER_RESTART == RUNS_PER_RESTART - 1:
        turn = number // RUNS_PER_RESTART
        failpoint, fault, store = FAILPOINTS[turn % len(FAILPOINTS)], RESTART, STORES[turn % len(STORES)]
    else:
        turn = number - number // RUNS_PER_RESTART
        failpoint, fault = FAILPOINTS[turn % len(FAILPOINTS)], FAULTS[turn // len(FAILPOINTS) % len(FAULTS)]
    return Plan(number, seed, failpoint, fault, 1 if failpoint in SELDOM else random.choice((1, 1, 2, 3)), store)


def pace_of(random: Random) -> dict[str, int]:
    """Return settings of a run that make windows, batches and timeouts short."""
    return {
        "dedup_window_ms": WINDOW_MS,
        "clock_skew_ms": 0,
        "claim_slack_ms": random.choice((1_500, 300_000)),
        "batch_rows": random.choice((30, 60, 120)),
        "batch_age_ms": 20,
        "max_record_bytes": UNCOMPRESSED_BYTES,
        "batch_uncompressed_bytes": UNCOMPRESSED_BYTES,
        "session_timeout_ms": 1_000,
        "query_timeout_ms": 1_000,
        "connect_timeout_ms": 1_000,
        "stop_timeout_ms": 5_000,
    }
