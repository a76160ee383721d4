"""Metrics of several processes: sums that never go down, whichever process is asked and whichever ends."""

import random
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.parser import text_string_to_metric_families

from runtime import shared_metrics
from runtime.shared_metrics import SharedMetrics


class Process:
    """Metrics of a process, as the API has them."""

    def __init__(self, path: Path) -> None:
        registry = CollectorRegistry()
        self.requests = Counter("tally_http_requests", "Requests.", ["route"], registry=registry)
        self.seconds = Histogram("tally_http_request_seconds", "Seconds.", ["route"], buckets=(1, 2), registry=registry)
        self.in_flight = Gauge("tally_http_in_flight", "Requests in flight.", registry=registry)
        self.lag = Gauge("tally_lag_seconds", "Lag.", registry=registry)
        self.shared = SharedMetrics(path, registry)

    def serve(self, route: str, seconds: float) -> None:
        """Count a request."""
        self.requests.labels(route).inc()
        self.seconds.labels(route).observe(seconds)

    def samples(self) -> dict[str, float]:
        """Everything that a request for metrics returns, by name and labels."""
        found = {}
        for family in text_string_to_metric_families(self.shared.text().decode()):
            for sample in family.samples:
                labels = ",".join(value for _, value in sorted(sample.labels.items()))
                found[f"{sample.name}({labels})"] = sample.value
        return found


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    return [tmp_path / f"api-{number}.json" for number in range(3)]


def test_counts_are_added_and_the_state_of_the_whole_is_not(paths: list[Path]) -> None:
    first, second, _ = (Process(path) for path in paths)
    first.serve("/a", 0.5)
    first.serve("/a", 1.5)
    second.serve("/a", 5)
    second.serve("/b", 0.5)
    for each in (first, second):
        each.in_flight.set(3)
        each.lag.set(7)
        each.shared.write()
    answers = [first.samples(), second.samples()]
    for found in answers:
        assert found["tally_http_requests_total(/a)"] == 3
        assert found["tally_http_requests_total(/b)"] == 1
        assert [found[f"tally_http_request_seconds_bucket({le},/a)"] for le in ("1.0", "2.0", "+Inf")] == [1, 2, 3]
        assert found["tally_http_request_seconds_count(/a)"] == 3
        assert found["tally_http_request_seconds_sum(/a)"] == 7
        assert found["tally_http_in_flight()"] == 6
        assert found["tally_lag_seconds()"] == 7


def test_gauges_of_an_ended_process_do_not_count(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    first, ended, killed = (Process(path) for path in paths)
    for each in (ended, killed):
        each.serve("/a", 1)
        each.in_flight.set(3)
        each.shared.write()
    ended.shared.write(has_ended=True)
    assert first.samples()["tally_http_in_flight()"] == 3
    monkeypatch.setattr(shared_metrics, "CURRENT_S", 0)
    found = first.samples()
    assert found["tally_http_in_flight()"] == 0
    assert found["tally_http_requests_total(/a)"] == 2


def test_without_its_folder_a_process_answers_its_own_metrics(paths: list[Path]) -> None:
    only = Process(paths[0].parent / "missing" / "api-0.json")
    only.serve("/a", 1)
    only.shared.write()
    found = only.samples()
    assert "tally_lag_seconds()" in found
    assert found["tally_http_requests_total(/a)"] == 1


@pytest.mark.parametrize("seed", range(20))
def test_no_count_goes_down(paths: list[Path], seed: int) -> None:
    """Requests, writes, answers, ends and replacements of processes, in any order."""
    chance = random.Random(seed)
    processes = {path: Process(path) for path in paths}
    served, lost = 0, 0
    unwritten = dict.fromkeys(paths, 0)
    last: dict[str, float] = {}
    for _ in range(200):
        path = chance.choice(paths)
        match chance.choice(["serve", "serve", "write", "answer", "stop", "kill"]):
            case "serve":
                processes[path].serve(chance.choice("abc"), chance.random() * 3)
                served, unwritten[path] = served + 1, unwritten[path] + 1
            case "write":
                processes[path].shared.write()
                unwritten[path] = 0
            case "answer":
                found, unwritten[path] = processes[path].samples(), 0
                counts = {name: value for name, value in found.items() if "_created" not in name}
                assert all(counts[name] >= value for name, value in last.items())
                last = counts
            case "stop":
                processes[path].shared.write(has_ended=True)
                processes[path], unwritten[path] = Process(path), 0
            case "kill":
                lost += unwritten[path]
                processes[path], unwritten[path] = Process(path), 0
    for each in processes.values():
        each.shared.write()
    for each in processes.values():
        total = sum(value for name, value in each.samples().items() if name.startswith("tally_http_requests_total"))
        assert total == served - lost
