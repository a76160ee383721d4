"""Metrics of a worker and an API that run as processes."""

import time
from pathlib import Path

import httpx

from runtime import metrics
from tests.lab import Lab
from tests.monitoring_lab import running_processes, samples


async def test_metrics_of_running_processes_are_counted(lab: Lab, tmp_path: Path) -> None:
    begun = time.time()
    async with running_processes(lab, tmp_path) as urls, httpx.AsyncClient() as client:
        exported = {url: (await client.get(f"{url}/metrics")).text for url in urls}
        for metric in metrics.every_metric():
            name = metrics.name_of(metric).removesuffix("_total")
            assert any(f"# HELP {name}" in text for text in exported.values()), name
        outcomes = await samples(client, urls.worker, "tally_worker_events_total")
        assert outcomes == {"stored": 2, "duplicate": 1, "rejected": 1, "moved": 0, "already_recorded": 0}
        assert await samples(client, urls.worker, "tally_worker_dead_letters_total") == {"not_json": 1}
        assert await samples(client, urls.worker, "tally_worker_claims") == {"": 2}
        assert await samples(client, urls.worker, "tally_worker_partitions") == {"": lab.settings.partitions}
        last = await samples(client, urls.worker, "tally_worker_last_event_timestamp_seconds")
        assert set(last) == {"click default"}
        assert begun - 1 <= last["click default"] <= time.time() + 1
        fresh = await samples(client, urls.worker, "tally_worker_freshness_seconds_count")
        assert fresh == await samples(client, urls.worker, "tally_worker_batch_records_count")
        assert await samples(client, urls.api, "tally_http_events_accepted_total") == {"create": 3}
        assert await samples(client, urls.api, "tally_http_events_refused_total") == {"missing_field create": 1}
        assert await samples(client, urls.api, "tally_collector_unacknowledged_events") == {"": 0}
        assert 0 <= (await samples(client, urls.api, "tally_lag_seconds"))[""] < 60
        health = await client.get(f"{urls.worker}/v1/health")
        assert (health.status_code, health.text) == (200, "ok\n")
        assert (await client.get(f"{urls.worker}/else")).status_code == 404
