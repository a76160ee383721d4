"""A worker and an API as processes of their own with an operator's ports, and all kinds of traffic through them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
from prometheus_client.parser import text_string_to_metric_families

from runtime.ports import free_port
from runtime.process.children import module_command
from runtime.settings import Settings
from tests.cluster_lab import running_children
from tests.http_lab import BEARER, EVENT, PATH, with_key
from tests.lab import Lab
from tests.waiting import eventually_async, until_it_answers


class ProcessUrls(NamedTuple):
    """Addresses of both processes."""

    worker: str
    api: str


@asynccontextmanager
async def running_processes(lab: Lab, folder: Path) -> AsyncIterator[ProcessUrls]:
    """Run both until events are stored, duplicate, rejected and refused."""
    settings = with_key(lab.settings, metrics_port=free_port())
    port = free_port()
    commands = {
        "worker": ["consumers.worker"],
        "api": ["tally.serve", "all", "--port", str(port), "--metrics-port", "0"],
    }
    with running_children() as children:
        for name, command in commands.items():
            children.start(
                name,
                module_command(*command),
                log_path=folder / f"{name}.log",
                environment=settings.as_environment(),
            )
        urls = ProcessUrls(f"http://127.0.0.1:{settings.metrics_port}", f"http://127.0.0.1:{port}")
        async with httpx.AsyncClient(headers=BEARER) as client:
            for url in urls:
                await until_it_answers(f"{url}/v1/ready")
            await send_all_kinds(lab, client, urls.api)
            await eventually_async(lambda: _is_stored(lab.settings, client, urls))
        yield urls


async def send_all_kinds(lab: Lab, client: httpx.AsyncClient, api: str) -> None:
    """Send two events to store, one duplicate, one to reject and one that the API refuses."""
    for sent, status in ((EVENT, 200), (EVENT, 200), ({**EVENT, "execution_id": "other"}, 200), ({}, 422)):
        assert (await client.post(f"{api}{PATH}", json=sent)).status_code == status
    await lab.put(b"no JSON")


async def _is_stored(settings: Settings, client: httpx.AsyncClient, urls: ProcessUrls) -> bool:
    by_partition = await samples(client, urls.api, "tally_lag_records")
    outcomes = await samples(client, urls.worker, "tally_worker_events_total")
    return sum(outcomes.values()) >= 4 and len(by_partition) == settings.partitions and not sum(by_partition.values())


async def samples(client: httpx.AsyncClient, url: str, name: str) -> dict[str, float]:
    """Return a process's samples of a metric by label values, in the order of label names."""
    return {
        " ".join(sample.labels.values()): sample.value
        for family in text_string_to_metric_families((await client.get(f"{url}/metrics")).text)
        for sample in family.samples
        if sample.name == name
    }
