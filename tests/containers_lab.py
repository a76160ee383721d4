"""The stores as containers, for `pytest --stack=containers` instead of the embedded services."""

import asyncio
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import docker
from pydantic import SecretStr
from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network

from deploy.embedded.services import HOST, wait_until
from runtime.clickhouse import connect
from runtime.errors import TallyError
from runtime.kafka import ping
from runtime.ports import free_port
from runtime.redis import connect_redis
from runtime.settings import Settings

ROOT = Path(__file__).parent.parent
READY_S = 120
STANDIN = "tally-standin"
"""Image names of `deploy/images/standins/build.sh`."""


class Images(NamedTuple):
    """Names of images; each may be another one by `TALLY_TEST_<NAME>_IMAGE`."""

    kafka: str
    valkey: str
    clickhouse: str
    tally: str

    @classmethod
    def chosen(cls) -> "Images":
        """Return the images of docker-compose.yml, or the stand-ins with `TALLY_TEST_STANDINS=1`."""
        official = dict(re.findall(r"\$\{(\w+)_IMAGE:-(.+)\}", (ROOT / "docker-compose.yml").read_text()))
        standins = bool(os.environ.get("TALLY_TEST_STANDINS"))

        def chosen(name: str) -> str:
            image = f"{STANDIN}/{name}" if standins else official[name.upper()]
            return os.environ.get(f"TALLY_TEST_{name.upper()}_IMAGE", image)

        return cls(*map(chosen, cls._fields))


class ContainerStack:
    """Stack of containers with the interface of the embedded stack."""

    def __init__(self, settings: Settings, network: Network, containers: dict[str, DockerContainer]) -> None:
        self._settings = settings
        self._containers = containers
        self.network = network

    def settings(self) -> Settings:
        """Where the stores are, for a process of this machine."""
        return self._settings

    def settings_inside(self, settings: Settings) -> Settings:
        """The same for a container on the stack's network."""
        inside = {
            "kafka": "kafka:19092",
            "redis": SecretStr("redis://valkey:6379/0"),
            "clickhouse": SecretStr("http://clickhouse:8123"),
        }
        return settings.model_copy(update=inside)

    def pid(self, name: str) -> int:
        """The process id of a store on this machine: kafka, redis or clickhouse."""
        wanted = {"redis": "valkey"}.get(name, name)
        wrapped = self._containers[wanted].get_wrapped_container()
        return int(docker.APIClient().inspect_container(wrapped.id)["State"]["Pid"])


def _kafka(image: str, port: int) -> DockerContainer:
    environment = {
        "NODE_ID": "1",
        "PROCESS_ROLES": "broker,controller",
        "CONTROLLER_QUORUM_VOTERS": "1@localhost:9093",
        "CONTROLLER_LISTENER_NAMES": "CONTROLLER",
        "LISTENERS": "PLAINTEXT://:9092,INSIDE://:19092,CONTROLLER://:9093",
        "ADVERTISED_LISTENERS": f"PLAINTEXT://{HOST}:{port},INSIDE://kafka:19092",
        "LISTENER_SECURITY_PROTOCOL_MAP": "PLAINTEXT:PLAINTEXT,INSIDE:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "INTER_BROKER_LISTENER_NAME": "INSIDE",
        "LOG_DIRS": "/var/lib/kafka/data",
        "AUTO_CREATE_TOPICS_ENABLE": "false",
        "MESSAGE_MAX_BYTES": "67174400",
        "SOCKET_REQUEST_MAX_BYTES": "104857600",
        "OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
        "OFFSETS_TOPIC_NUM_PARTITIONS": "4",
        "TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
        "TRANSACTION_STATE_LOG_MIN_ISR": "1",
        "GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
        "GROUP_MIN_SESSION_TIMEOUT_MS": "1000",
    }
    container = DockerContainer(image).with_bind_ports(9092, port)
    for name, value in environment.items():
        container.with_env(f"KAFKA_{name}", value)
    return container


@contextmanager
def container_stack(data_dir: Path) -> Iterator[ContainerStack]:
    """Kafka, Valkey and ClickHouse, ready; gone at the end."""
    images = Images.chosen()
    os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")  # its image is one more that has to be had
    ports = {name: free_port() for name in ("kafka", "valkey", "clickhouse")}
    containers = {
        "kafka": _kafka(images.kafka, ports["kafka"]),
        "valkey": DockerContainer(images.valkey).with_bind_ports(6379, ports["valkey"]),
        "clickhouse": DockerContainer(images.clickhouse)
        .with_bind_ports(8123, ports["clickhouse"])
        .with_env("CLICKHOUSE_SKIP_USER_SETUP", "1")
        .with_env("TZ", "UTC"),
    }
    settings = Settings(
        data_dir=data_dir,
        kafka=f"{HOST}:{ports['kafka']}",
        redis=SecretStr(f"redis://{HOST}:{ports['valkey']}/0"),
        clickhouse=SecretStr(f"http://{HOST}:{ports['clickhouse']}"),
    )
    with ExitStack() as open_:
        network = open_.enter_context(Network())
        for name, container in containers.items():
            open_.enter_context(container.with_network(network).with_network_aliases(name))
        assert wait_until(lambda: asyncio.run(_answer(settings)), lambda: True, READY_S), "the containers do not answer"
        yield ContainerStack(settings, network, containers)


async def _answer(settings: Settings) -> bool:
    patient = settings.model_copy(update={"connect_timeout_ms": 2_000})
    try:
        await ping(patient)
        async with connect_redis(patient), connect(patient, database="default"):
            return True
    except TallyError:
        return False
