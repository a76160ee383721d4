"""State of the pipeline: offsets and lag of each partition, rates, workers, and stores.

Offsets are of the whole topic. They say nothing about the content of any namespace.
"""

import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from itertools import chain
from typing import Any, Literal

from pydantic import BaseModel, Field

from readers.group_workers import GroupWorker
from readers.incidents import MAX_ENDED, Incident, Incidents
from readers.progress import ConsumerProgress
from runtime.http.readiness import DependencyState, ReadinessState
from runtime.settings import Settings
from schemas.event_time import from_epoch_ms, iso_ms

RATES_S: Mapping[str, float] = {"10s": 10.0, "60s": 60.0}
"""Times over which rates are given, in seconds, by name."""
MAX_NAMED = 10
"""Maximum partitions that a problem names."""
DEPARTURE_S = 600.0
"""Time for which a worker that has left is a problem."""
STORE_PROBLEMS: Mapping[str, str] = {
    "clickhouse": "ClickHouse does not answer: accepted events are kept in Kafka, and stored once it answers",
    "kafka": "Kafka does not answer: events cannot be accepted, and the API answers 503, so that senders try again",
    "redis": "Redis does not answer: workers wait, and the API proceeds without rate limits and hints about duplicates",
    "keys": "API keys cannot be read from ClickHouse: keys that were valid stay valid, changes take effect later",
}
"""Problems by dependency that does not answer, with what follows."""

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


class PipelineIncident(BaseModel):
    """Problem with its first observation, and the first one without it; null: it is still there."""

    problem: str
    since: datetime
    until: datetime | None


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
    problems: list[str] = Field(description="reasons to act, causes before what follows from them")
    incidents: list[PipelineIncident] = Field(
        description=f"problems since the start of this API process: present ones, then at most {MAX_ENDED} ended ones"
    )
    as_of: datetime | None = Field(description="time of the last observation; null before the first")


def describe_pipeline(
    settings: Settings, progress: ConsumerProgress, ready: ReadinessState, incidents: Incidents
) -> dict[str, Any]:
    """Return the body of a PipelineResponse."""
    partitions, problems = _partitions(progress), problems_of(progress, ready)
    incidents.note(problems)
    # An old rate would look like a present one.
    rates = {name: None if progress.is_stale else progress.rates.over(seconds) for name, seconds in RATES_S.items()}
    return {
        "topic": settings.topic,
        "dead_letter_topic": settings.dead_letter_topic_name,
        "partitions": partitions,
        "lag": sum(each["lag"] for each in partitions) if progress.observed_ms else None,
        "lag_ms": progress.lag_ms,
        "appended_per_s": {name: _rounded(rate and rate.appended) for name, rate in rates.items()},
        "settled_per_s": {name: _rounded(rate and rate.settled) for name, rate in rates.items()},
        "workers": [_worker(each) for each in (*progress.workers.active, *progress.workers.left)],
        "stores": dict(ready.dependencies),
        "problems": list(problems.values()),
        "incidents": [_incident(each) for each in incidents.latest()],
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


def _rounded(rate: float | None) -> float | None:
    return None if rate is None else round(rate, 1)


def _worker(worker: GroupWorker) -> dict[str, Any]:
    return {
        **{"name": worker.name, "host": worker.host, "state": worker.state},
        "since": iso_ms(from_epoch_ms(worker.since_ms)),
        "partitions": list(worker.partitions),
    }


def _incident(incident: Incident) -> dict[str, Any]:
    until_ms = incident.until_ms
    return {
        "problem": incident.problem,
        "since": iso_ms(from_epoch_ms(incident.since_ms)),
        "until": None if until_ms is None else iso_ms(from_epoch_ms(until_ms)),
    }


def problems_of(progress: ConsumerProgress, ready: ReadinessState) -> dict[str, str]:
    """Return the present problems by kind: stores first, since the others may follow from theirs."""
    return dict(chain(_store_problems(ready), _worker_problems(progress), _departures(progress)))


def _worker_problems(progress: ConsumerProgress) -> Iterator[tuple[str, str]]:
    if not progress.observed_ms:
        yield "progress", "the progress of the workers has not been observed yet"
    elif progress.is_stale:
        age_s = time.time() - progress.observed_ms / 1000
        yield "progress", f"Kafka did not answer: offsets and workers are those of {age_s:.0f} s ago"
    elif not progress.workers.is_known:
        yield "workers", "Kafka did not say which workers are members of the consumer group"
    elif not progress.workers.active:
        lag = sum(progress.waiting.values())
        yield "workers", f"no worker reads the topic: {lag:,} records wait" if lag else "no worker reads the topic"
    else:
        read = {number for worker in progress.workers.active for number in worker.partitions}
        if free := [str(number) for number in sorted(progress.ends) if number not in read]:
            more = f" and {len(free) - MAX_NAMED} more" if len(free) > MAX_NAMED else ""
            yield "partitions", f"without a worker: partition {', '.join(free[:MAX_NAMED])}{more}"


def _departures(progress: ConsumerProgress) -> Iterator[tuple[str, str]]:
    """Yield the workers that have left, for the first minutes: some leave because there is less to do."""
    for worker in progress.workers.left:
        if time.time() - worker.since_ms / 1000 < DEPARTURE_S:
            yield f"left {worker.name}", f"worker {worker.name} on {worker.host} has left the consumer group"


def _store_problems(ready: ReadinessState) -> Iterator[tuple[str, str]]:
    """Yield the problems of dependencies. Missing progress is a problem of its own."""
    for name, state in ready.dependencies.items():
        if state in ("away", "missing") and name in STORE_PROBLEMS:
            yield name, STORE_PROBLEMS[name]
    for number, problem in enumerate(ready.problems):
        yield f"degraded {number}", problem
