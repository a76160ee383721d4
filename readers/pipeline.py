"""State of the pipeline: offsets and lag of each partition, rates, workers, and stores.

Offsets are of the whole topic. They say nothing about the content of any namespace.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from readers.group_workers import GroupWorker
from readers.progress import ConsumerProgress
from runtime.http.readiness import DependencyState, ReadinessState
from runtime.settings import Settings
from schemas.event_time import from_epoch_ms, iso_ms

RATES_S: Mapping[str, float] = {"10s": 10.0, "60s": 60.0}
"""Times over which rates are given, in seconds, by name."""
MAX_NAMED = 10
"""Maximum partitions that a problem names."""

Rates = dict[Literal["10s", "60s"], float | None]


class PipelinePartition(BaseModel):
    """Partition of the topic, with the worker that reads it."""

    partition: int
    end_offset: int
    committed: int = Field(description="offset below which every record has an outcome")
    lag: int = Field(description="records without an outcome")
    worker: str | None
    stuck_ms: int | None = Field(description="time without a commit, of a partition whose records wait")
    stuck_offset: int | None = Field(description="offset of the first record that waits")


class PipelineWorker(BaseModel):
    """Worker of the consumer group. One that has left is listed for an hour."""

    name: str
    host: str
    state: Literal["active", "left"]
    since: datetime = Field(description="time at which this API process first observed the state")
    partitions: list[int]


class PipelineResponse(BaseModel):
    """State of the pipeline at `as_of`. Null: unknown."""

    topic: str
    dead_letter_topic: str
    partitions: list[PipelinePartition]
    lag: int | None
    lag_ms: int | None = Field(description="age of the oldest record without an outcome, in steps of an observation")
    appended_per_s: Rates
    settled_per_s: Rates
    workers: list[PipelineWorker]
    stores: dict[str, DependencyState] = Field(description="dependencies of this API process, as in /v1/ready")
    problems: list[str] = Field(description="reasons to act")
    as_of: datetime | None = Field(description="time of the last observation; null before the first")


def describe_pipeline(settings: Settings, progress: ConsumerProgress, ready: ReadinessState) -> dict[str, Any]:
    """Return the body of a PipelineResponse."""
    partitions = _partitions(progress)
    # An old rate would look like a present one.
    rates = {name: None if progress.is_stale else progress.rates.over(seconds) for name, seconds in RATES_S.items()}
    return {
        "topic": settings.topic,
        "dead_letter_topic": settings.dead_letter_topic_name,
        "partitions": partitions,
        "lag": sum(each["lag"] for each in partitions) if progress.observed_ms else None,
        "lag_ms": _lag_ms(progress),
        "appended_per_s": {name: _rounded(rate and rate.appended) for name, rate in rates.items()},
        "settled_per_s": {name: _rounded(rate and rate.settled) for name, rate in rates.items()},
        "workers": [_worker(each) for each in (*progress.workers.active, *progress.workers.left)],
        "stores": dict(ready.dependencies),
        "problems": [*_problems(progress, partitions), *_store_problems(ready)],
        "as_of": iso_ms(from_epoch_ms(progress.observed_ms)) if progress.observed_ms else None,
    }


def _partitions(progress: ConsumerProgress) -> list[dict[str, Any]]:
    owners = {number: worker.name for worker in progress.workers.active for number in worker.partitions}
    stuck = {each.partition: each for each in progress.partitions.stuck}
    found = []
    for number, end in sorted(progress.ends.items()):
        committed, is_stuck = progress.committed.get(number, 0), stuck.get(number)
        found.append(
            {
                **{"partition": number, "end_offset": end, "committed": committed, "lag": max(0, end - committed)},
                "worker": owners.get(number),
                "stuck_ms": int(1000 * is_stuck.seconds) if is_stuck else None,
                "stuck_offset": is_stuck.offset if is_stuck else None,
            }
        )
    return found


def _lag_ms(progress: ConsumerProgress) -> int | None:
    """Return the lag at the last observation: records that were there at `settled_ms` have their outcomes."""
    if not progress.observed_ms or not progress.settled_ms:
        return None
    return max(0, progress.observed_ms - progress.settled_ms)


def _rounded(rate: float | None) -> float | None:
    return None if rate is None else round(rate, 1)


def _worker(worker: GroupWorker) -> dict[str, Any]:
    return {
        **{"name": worker.name, "host": worker.host, "state": worker.state},
        "since": iso_ms(from_epoch_ms(worker.since_ms)),
        "partitions": list(worker.partitions),
    }


def _problems(progress: ConsumerProgress, partitions: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if not progress.observed_ms:
        yield "the progress of the workers has not been observed yet"
        return
    if progress.is_stale:
        age_s = time.time() - progress.observed_ms / 1000
        yield f"Kafka did not answer: offsets and workers are those of {age_s:.0f} s ago"
    elif not progress.workers.is_known:
        yield "Kafka did not say which workers are members of the consumer group"
    elif not progress.workers.active:
        lag = sum(each["lag"] for each in partitions)
        yield f"no worker reads the topic: {lag:,} records wait" if lag else "no worker reads the topic"
    elif free := [str(each["partition"]) for each in partitions if each["worker"] is None]:
        more = f" and {len(free) - MAX_NAMED} more" if len(free) > MAX_NAMED else ""
        yield f"without a worker: partition {', '.join(free[:MAX_NAMED])}{more}"


def _store_problems(ready: ReadinessState) -> Iterator[str]:
    """Yield the problems of dependencies. Missing progress is a problem of its own."""
    yield from ready.problems
    for name, state in ready.dependencies.items():
        if state == "away":
            yield f"{name} does not answer"
        elif state == "missing" and name != "progress":
            yield f"{name} is missing: requests proceed without it"
