"""A rolling restart of all workers and both API processes under load: no request fails, and the audit balances."""

import asyncio
import itertools
from collections.abc import Mapping
from pathlib import Path

import httpx
from pydantic import SecretStr

from deploy.embedded.stack import Stack
from readers.audit import audit
from runtime.ports import free_port
from runtime.process.children import Child, Children, module_command
from runtime.settings import Settings
from tests.cluster_lab import running_children
from tests.http_lab import BEARER, KEY, PATH
from tests.lab import lab_of, settings_of_its_own
from tests.waiting import eventually_async, until_it_answers

CLIENTS = 8
PATIENCE_S = 30.0
STOP_S = 45.0
WORKERS, APIS = ("worker-0", "worker-1"), ("api-0", "api-1")


class Fleet:
    """Processes by name, each with an operator's port of its own; the two APIs share the port that is called."""

    def __init__(self, children: Children, settings: Settings, folder: Path) -> None:
        self.port = free_port()
        self._children = children
        self._environment: Mapping[str, str] = settings.as_environment()
        self._folder = folder
        self._ports = {name: free_port() for name in (*WORKERS, *APIS)}
        self._running: dict[str, Child] = {}

    async def start(self, name: str) -> None:
        """Start a process and wait until it says that it is ready."""
        what = ["consumers.worker", "--instance", name]
        if name in APIS:
            what = ["tally.serve", "all", "--port", str(self.port)]
        command = module_command(*what, "--metrics-port", str(self._ports[name]))
        self._running[name] = self._children.start(
            name, command, log_path=self._folder / f"{name}.log", environment=self._environment
        )
        await until_it_answers(f"http://127.0.0.1:{self._ports[name]}/v1/ready")

    async def restart(self, name: str) -> None:
        """Let a process end in order, and start another in its place."""
        child = self._running[name]
        child.process.terminate()
        assert await asyncio.to_thread(child.process.wait, STOP_S) == 0, (self._folder / f"{name}.log").read_text()
        self._children.mark_reaped(child)
        await self.start(name)


class Load:
    """Clients that create events one after another and read what they have just created."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._numbers = itertools.count()
        self.over = asyncio.Event()
        self.created: list[str] = []
        self.retries = 0

    async def run(self, client: httpx.AsyncClient) -> None:
        """Until `over`. Raises TimeoutError for a request that failed however often it was made."""
        while not self.over.is_set():
            event = {
                "feature_id": "f",
                "interaction_type": ["click"],
                "position": 0,
                "execution_id": f"e{next(self._numbers)}",
            }
            answer = await self._until_answered(client, "POST", self._url, json=event)
            self.created.append(answer.json()["interaction_id"])
            await self._until_answered(client, "GET", f"{self._url}/{self.created[-1]}")

    async def _until_answered(
        self, client: httpx.AsyncClient, method: str, url: str, json: object = None
    ) -> httpx.Response:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    answer = await client.request(method, url, json=json)
                except httpx.TransportError:
                    answer = None
                if answer is not None and answer.status_code not in {404, 503}:
                    assert answer.status_code == 200, answer.text
                    return answer
                self.retries += 1
                await asyncio.sleep(0.05)


async def test_a_rolling_restart_under_load_loses_nothing(stack: Stack, tmp_path: Path) -> None:
    update = {"api_key": SecretStr(KEY), "rate_limit_per_s": 0}
    settings = settings_of_its_own(stack, tmp_path).model_copy(update=update)
    async with lab_of(settings) as lab, httpx.AsyncClient(headers=BEARER) as client:
        with running_children() as children:
            fleet = Fleet(children, settings, tmp_path)
            await asyncio.gather(*(fleet.start(name) for name in (*WORKERS, *APIS)))
            load = Load(f"http://127.0.0.1:{fleet.port}{PATH}")
            clients = [asyncio.create_task(load.run(client)) for _ in range(CLIENTS)]
            for name in (*WORKERS, *APIS):
                before = len(load.created)
                await eventually_async(lambda before=before: _has_continued(load, before))  # type: ignore[misc]
                await fleet.restart(name)
            load.over.set()
            await asyncio.gather(*clients)

            async def is_done() -> bool:
                return sum([each.in_flight async for each in audit(settings, lab.database)]) == 0

            await eventually_async(is_done)
        parts = [each async for each in audit(settings, lab.database)]
        assert all(each.balances for each in parts), parts
        assert len(set(load.created)) == len(load.created)
        assert sum(each.accepted for each in parts) >= len(load.created)
        ((executions,),) = await lab.rows("SELECT uniqExact(execution_id) FROM interactions FINAL")
        assert executions == len(load.created), f"after {load.retries} retries"


async def _has_continued(load: Load, before: int) -> bool:
    return len(load.created) >= before + 50
