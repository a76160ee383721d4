"""The image of Tally, run as in production: not as root, on a read-only root (`make test-containers`)."""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import docker
import httpx
import pytest
from testcontainers.core.container import DockerContainer

from runtime.ports import free_port
from runtime.settings import Settings
from tests.containers_lab import ContainerStack, Images
from tests.http_lab import BEARER, EVENT, KEY, PATH
from tests.waiting import eventually_async, until_it_answers

HARDENED: dict[str, Any] = {
    "read_only": True,
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges:true"],
}
GIVEN = [
    f"TALLY_{name}"
    for name in ("KAFKA", "REDIS", "CLICKHOUSE", "TOPIC", "GROUP", "DATABASE", "KEY_PREFIX", "PARTITIONS")
]


class Tally:
    """Starts processes of the image on the stack's network."""

    def __init__(self, stack: ContainerStack, settings: Settings, open_: ExitStack) -> None:
        inside = stack.settings_inside(settings).as_environment()
        self._network = stack.network
        self._environment = {name: inside[name] for name in GIVEN} | {"TALLY_API_KEY": KEY}
        self._open = open_

    def start(self, command: Sequence[str], ports: dict[int, int] | None = None) -> Any:
        """The running container, as Docker's client knows it."""
        container = DockerContainer(Images.chosen().tally, network=None).with_kwargs(**HARDENED)
        container.with_tmpfs_mount("/tmp")  # noqa: S108  (the container's own)
        container.with_command(list(command)).with_network(self._network)
        for name, value in self._environment.items():
            container.with_env(name, value)
        for inside, outside in (ports or {}).items():
            container.with_bind_ports(inside, outside)
        return self._open.enter_context(container).get_wrapped_container()


@pytest.fixture
def tally(stack: ContainerStack, settings: Settings) -> Iterator[Tally]:
    """The image, on a topic and tables of its own."""
    with ExitStack() as open_:
        yield Tally(stack, settings, open_)


async def test_an_event_is_processed_by_the_image(tally: Tally) -> None:
    init = tally.start(["tally", "init"])
    assert init.wait(timeout=60)["StatusCode"] == 0, init.logs().decode()
    collector_port, reader_port, worker_port = free_port(), free_port(), free_port()
    serve = ["python", "-m", "tally.serve"]
    listen = ["--host", "::", "--port", "8080"]
    processes = {
        "worker": tally.start(["python", "-m", "consumers.worker", "--metrics-port", "9464"], {9464: worker_port}),
        "collector": tally.start([*serve, "collector", *listen], {8080: collector_port}),
        "reader": tally.start([*serve, "reader", *listen], {8080: reader_port}),
    }
    async with httpx.AsyncClient(headers=BEARER) as client:
        for port in (collector_port, reader_port, worker_port):
            await until_it_answers(f"http://127.0.0.1:{port}/v1/ready")
        created = await client.post(f"http://127.0.0.1:{collector_port}{PATH}", json=EVENT)
        assert created.status_code == 200, created.text
        url = f"http://127.0.0.1:{reader_port}{PATH}/{created.json()['interaction_id']}"

        async def is_read() -> bool:
            return (await client.get(url)).status_code == 200

        await eventually_async(is_read)
        counted = (await client.get(f"http://127.0.0.1:{worker_port}/metrics")).text
        assert 'tally_worker_events_total{outcome="stored"} 1.0' in counted
    for name, container in processes.items():
        container.kill("SIGTERM")
        assert container.wait(timeout=60)["StatusCode"] == 0, container.logs().decode()
        lines = [json.loads(line) for line in container.logs().decode().splitlines()]
        assert lines, name
        assert not [line for line in lines if "compiled" in line["message"]], "that was done when it was built"


def test_the_image_contains_no_secrets_and_no_test_packages() -> None:
    image = docker.from_env().images.get(Images.chosen().tally)
    config = image.attrs["Config"]
    assert config["User"] == "65532:65532"
    assert not any("PASSWORD" in each or "API_KEY" in each for each in config["Env"])
    script = "import chdb"
    with pytest.raises(docker.errors.ContainerError, match="ModuleNotFoundError"):
        docker.from_env().containers.run(image.id, ["python", "-c", script], remove=True)


def test_a_missing_setting_is_named(tally: Tally) -> None:
    output = docker.from_env().containers.run(
        Images.chosen().tally, ["sh", "-c", "python -m consumers.worker; echo exit $?"], remove=True, stderr=True
    )
    said = output.decode()
    assert "TALLY_CLICKHOUSE is not set" in said
    assert "exit 2" in said
