"""Metrics for operators: every metric of the list is exposed, and generated files match the list."""

import json
import math
import re
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any, cast

import httpx
import promql_parser
import pytest
import yaml
from clickhouse_connect.driver.exceptions import DatabaseError
from prometheus_client import REGISTRY, generate_latest
from redis.exceptions import ConnectionError

from consumers.claims.client import Lease
from consumers.claims.leases import Leases
from consumers.claims.owners import rows_of
from deploy.monitoring.dashboard import RATE_OVER, dashboard
from runtime import metrics, metrics_doc, metrics_server
from runtime.errors import SettingsError
from runtime.faults.clickhouse import clickhouse_fault
from runtime.faults.redis import redis_fault
from runtime.metrics_server import serve_metrics
from runtime.ports import free_port
from runtime.retry import retrying
from runtime.settings import Settings
from schemas.identity import derive_foreign_id
from tests.http_lab import api_of, with_key
from tests.lab import Lab, click

ROOT = Path(__file__).parent.parent
RULES = [
    rule
    for group in yaml.safe_load((ROOT / "deploy/monitoring/alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
ALERTS = [rule for rule in RULES if "alert" in rule]
RECORDED = {rule["record"]: {"namespace", "interaction_type"} for rule in RULES if "record" in rule}
QUERIES = [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", ())]


async def test_no_metric_is_computed_from_objects_of_the_event_loop(lab: Lab) -> None:
    """Threads answer /metrics: they may only read numbers. What computes one keeps its owner alive, too."""
    await lab.emit(click())
    await lab.drain()
    async with api_of(with_key(lab.settings)):
        computed = [metrics.name_of(each) for each in metrics.every_metric() if "_child_samples" in vars(each)]
        assert computed == ["tally_lag_seconds"]
    assert math.isnan(REGISTRY.get_sample_value("tally_lag_seconds") or 0), "no process follows the group any more"


async def test_claims_can_be_counted_while_a_worker_drops_them() -> None:
    """Another thread reads the gauge over and over, while leases are made, filled and emptied."""
    stopped = Event()
    with ThreadPoolExecutor(1) as threads:
        reading = threads.submit(_read_until, stopped)
        try:
            for number in range(300):
                leases: Any = Leases(*[cast(Any, None)] * 4)
                lease = Lease(0, b"", b"", 0, True, 0, 0)
                leases._leases[0] = lease
                lease.add(0, rows_of([b"k" * 16] * 2, [0, 1], [0, 0], [0, 0], [derive_foreign_id("t", 0, 0, 0)] * 2), 1)
                leases.publish()
                assert REGISTRY.get_sample_value("tally_worker_claims") == 2, number
                lease.forget_before(1)
                leases.forget([0])
                assert REGISTRY.get_sample_value("tally_worker_claims") == 0
        finally:
            stopped.set()
        assert reading.result() > 0
    last = weakref.ref(leases)
    del leases
    assert last() is None, "the gauge does not keep it alive"


def _read_until(stopped: Event) -> int:
    times = 0
    while not stopped.is_set():
        generate_latest()
        times += 1
    return times


async def test_a_blocked_event_loop_is_not_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_server, "LOOP_TIMEOUT_S", 0.2)
    settings = Settings(metrics_port=free_port())
    with serve_metrics(settings, why_not_ready=lambda: ""):
        url = f"http://127.0.0.1:{settings.metrics_port}/v1/health"
        with ThreadPoolExecutor(1) as threads:
            asked = threads.submit(httpx.get, url)
            assert asked.result().status_code == 503, "the event loop is blocked here"
        async with httpx.AsyncClient() as client:
            assert (await client.get(url)).status_code == 200


@pytest.mark.parametrize("query", [*QUERIES, *(rule["expr"] for rule in RULES)])
def test_a_query_uses_existing_metrics_and_labels(query: str) -> None:
    known = {metrics.name_of(each): set(metrics.labels_of(each)) for each in metrics.every_metric()} | RECORDED
    selectors = list(_selectors(promql_parser.parse(query.replace(RATE_OVER, "1m"))))
    assert selectors
    for selector in selectors:
        name = re.sub(r"_(bucket|count|sum)$", "", selector.name)
        assert name in known, query
        assert {each.name for each in selector.matchers.matchers} <= known[name], query


def _selectors(node: Any) -> Any:
    """Every series that an expression selects."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node
    elif isinstance(node, promql_parser.MatrixSelector):
        yield node.vector_selector
    else:
        for part in ("expr", "lhs", "rhs", "param"):
            if getattr(node, part, None) is not None:
                yield from _selectors(getattr(node, part))
        for argument in getattr(node, "args", None) or ():
            yield from _selectors(argument)


def test_every_metric_has_a_panel() -> None:
    titles = [panel["title"] for panel in dashboard()["panels"] if panel["type"] != "row"]
    assert sorted(titles) == sorted(metrics.name_of(each) for each in metrics.every_metric())


def test_generated_files_are_current() -> None:
    assert json.loads((ROOT / "deploy/monitoring/dashboard.json").read_text()) == dashboard(), "make docs"
    assert (ROOT / "docs/metrics.md").read_text() == metrics_doc.as_markdown(), "make docs"


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_has_its_entry_in_the_runbook(alert: dict[str, Any]) -> None:
    path, _, anchor = alert["annotations"]["runbook"].partition("#")
    headings = re.findall(r"^#+ (\w+)$", (ROOT / path).read_text(), re.MULTILINE)
    assert anchor in {heading.lower() for heading in headings}
    assert alert["alert"].lower() == anchor


async def test_a_port_that_is_taken_is_named() -> None:
    settings = Settings(metrics_port=free_port())
    with serve_metrics(settings, why_not_ready=lambda: ""):
        second = serve_metrics(settings, why_not_ready=lambda: "")
        with pytest.raises(SettingsError, match="TALLY_METRICS_PORT"), second:
            pass


async def test_a_retry_is_counted_by_operation_and_error() -> None:
    faults = [clickhouse_fault(DatabaseError("too many parts")), redis_fault(ConnectionError("gone"))]
    failing = iter(faults)

    async def attempt() -> str:
        for fault in failing:
            raise fault
        return "done"

    what = "counting a retry"
    assert await retrying(what, attempt) == "done"
    for kind in ("clickhouse network", "redis ConnectionError"):
        assert REGISTRY.get_sample_value("tally_retries_total", {"what": what, "kind": kind}) == 1
