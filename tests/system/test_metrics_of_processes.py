"""Metrics of a worker and an API that run as processes."""

import time
from pathlib import Path

import httpx

from runtime import metrics
from tests.lab import Lab
from tests.monitoring_lab import samples, watched


async def test_what_happens_is_counted(lab: Lab, tmp_path: Path) -> None:
    begun = time.time()
    async with watched(lab, tmp_path) as eyes, httpx.AsyncClient() as client:
        told = {url: (await client.get(f"{url}/metrics")).text for url in eyes}
        for metric in metrics.every_metric():
            name = metrics.name_of(metric).removesuffix("_total")
            assert any(f"# HELP {name}" in text for text in told.values()), name
        outcomes = await samples(client, eyes.worker, "tally_worker_events_total")
        assert outcomes == {"stored": 2, "duplicate": 1, "rejected": 1, "moved": 0, "already_recorded": 0}
        assert await samples(client, eyes.worker, "tally_worker_dead_letters_total") == {"not_json": 1}
        assert await samples(client, eyes.worker, "tally_worker_claims") == {"": 2}
        assert await samples(client, eyes.worker, "tally_worker_partitions") == {"": lab.settings.partitions}
        last = await samples(client, eyes.worker, "tally_worker_last_event_timestamp_seconds")
        assert set(last) == {"click default"}
        assert begun - 1 <= last["click default"] <= time.time() + 1
        fresh = await samples(client, eyes.worker, "tally_worker_freshness_seconds_count")
        assert fresh == await samples(client, eyes.worker, "tally_worker_batch_records_count")
        assert await samples(client, eyes.api, "tally_http_events_accepted_total") == {"create": 3}
        assert await samples(client, eyes.api, "tally_http_events_refused_total") == {"missing_field create": 1}
        assert await samples(client, eyes.api, "tally_collector_unacknowledged_events") == {"": 0}
        assert 0 <= (await samples(client, eyes.api, "tally_lag_seconds"))[""] < 60
        health = await client.get(f"{eyes.worker}/v1/health")
        assert (health.status_code, health.text) == (200, "ok\n")
        assert (await client.get(f"{eyes.worker}/else")).status_code == 404
