"""The Kafka of docker-compose.yml: its settings, on the embedded broker. What the image makes of them is not proved."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka.errors import TopicAuthorizationFailedError
from pydantic import SecretStr

from deploy.embedded import jars
from deploy.embedded.services import HOST, kafka_service, wait_until
from runtime import kafka
from runtime.errors import Fatal
from runtime.ports import free_port
from runtime.settings import Settings
from tests.access_lab import grant_in_kafka, kafka_rights
from tests.cluster_lab import running_children
from tests.test_compose import SERVICES

SET_BY_IMAGE = {"NODE_ID", "PROCESS_ROLES", "CONTROLLER_QUORUM_VOTERS", "LOG_DIRS"}
"""Settings of the embedded broker only."""


def properties_of(ports: dict[str, int]) -> dict[str, str]:
    """The environment as the image reads it: KAFKA_SOME_THING is some.thing."""
    found = {}
    for name, value in SERVICES["kafka"]["environment"].items():
        key = name.removeprefix("KAFKA_")
        text = re.sub(r"\$\{(\w+)_PASSWORD.*?\}", r"the-password-of-\1", str(value))
        for listener, port in ports.items():
            text = re.sub(rf"\b{listener}://[\w.]*:\d+", f"{listener}://{HOST}:{port}", text)
        if key not in SET_BY_IMAGE:
            found[key.lower().replace("_", ".")] = text
    return found


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where clients come in."""
    folder = tmp_path_factory.mktemp("compose")
    ports = {name: free_port() for name in ("CLIENT", "BROKER", "CONTROLLER")}
    with running_children() as children:
        folder_of_jars = jars.fetch(Settings().cache_dir, lambda _line: None)
        properties = properties_of(ports)
        part = kafka_service(folder, folder_of_jars, ports["BROKER"], ports["CONTROLLER"], properties=properties)
        child = part.start(children, folder / "kafka.log")
        assert wait_until(part.answers, lambda: child.exit_code is None, part.start_timeout_s), child.failure("failed")
        yield f"{HOST}:{ports['CLIENT']}"


def settings_of(role: str, address: str, password: str = "") -> Settings:
    """The settings of a service, as docker-compose.yml has them."""
    environment = SERVICES["init"]["environment"]
    return Settings(
        kafka=address,
        kafka_security_protocol=environment["TALLY_KAFKA_SECURITY_PROTOCOL"],
        kafka_sasl_mechanism=environment["TALLY_KAFKA_SASL_MECHANISM"],
        kafka_username=f"tally_{role}",
        kafka_password=SecretStr(password or f"the-password-of-{role.upper()}"),
        connect_timeout_ms=20_000,
    )


async def test_each_role_logs_in_and_has_its_rights(address: str, tmp_path: Path) -> None:
    administrator = settings_of("admin", address)
    rights = kafka_rights(administrator.topic, administrator.dead_letter_topic_name, administrator.group)
    await grant_in_kafka(administrator, rights)
    await kafka.create_topics(administrator)
    async with kafka.producer(settings_of("collector", address)) as producer:
        await producer.send_and_wait(administrator.topic, b"{}")
    for role in ("worker", "reader"):
        async with kafka.admin(settings_of(role, address)) as client:
            await kafka.partition_numbers(client, administrator.topic)
    async with kafka.producer(settings_of("reader", address)) as producer:  # it replays dead letters, and writes none
        await producer.send_and_wait(administrator.topic, b"{}")
        with pytest.raises(TopicAuthorizationFailedError):
            await producer.send_and_wait(administrator.dead_letter_topic_name, b"{}")
    for role in ("admin", "collector"):
        with pytest.raises(Fatal, match="TALLY_KAFKA_PASSWORD"):
            async with kafka.admin(settings_of(role, address, "another")):
                pass
