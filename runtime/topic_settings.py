"""Settings and partition count of a topic: checked before it is used, and changed while it is live."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from aiokafka.admin import AIOKafkaAdminClient, NewPartitions
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    KafkaError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    for_code,
)

from runtime.errors import Fatal, Unavailable
from runtime.faults.kafka import kafka_fault

TIMESTAMP_TYPE = "message.timestamp.type"
LOG_APPEND_TIME = "LogAppendTime"
CLEANUP_POLICY = "cleanup.policy"
DELETE = "delete"
RETENTION_MS = "retention.ms"
MAX_MESSAGE_BYTES = "max.message.bytes"
CHANGE_TIMEOUT_S = 30
"""Longest wait until a broker has a change that the controller acknowledged."""
NEW_TOPIC_TIMEOUT_S = 2
"""Longest wait until the broker of a request knows a new topic that another broker knows."""
_POLL_S = 0.05
_SET_ON_THE_TOPIC = 1
"""Kafka's number for the config source "dynamic topic config"."""

REQUIRED: Mapping[str, str] = MappingProxyType({TIMESTAMP_TYPE: LOG_APPEND_TIME, CLEANUP_POLICY: DELETE})
"""Settings of the topic of events."""
REQUIRED_OF_DEAD_LETTERS: Mapping[str, str] = MappingProxyType({CLEANUP_POLICY: DELETE})
"""Settings of the dead-letter topic."""

_WHY = {
    TIMESTAMP_TYPE: "deduplication compares append times, which a producer must not be able to choose",
    CLEANUP_POLICY: "compaction removes every record but the last of a key, read or not",
}


Answer = TypeVar("Answer")


class DescribeConfigsDenied(Fatal):
    """Refusal of DescribeConfigs: Kafka does not show this user a topic's settings."""


class MissingTopic(Fatal):
    """Topic that the broker of a request does not know."""

    def __init__(self, name: str) -> None:
        super().__init__(f"topic {name} (TALLY_TOPIC, TALLY_DEAD_LETTER_TOPIC) does not exist; `tally init` creates it")


async def once_known(ask: Callable[[], Awaitable[Answer]]) -> Answer:
    """Return the answer to a request about a topic. Raises MissingTopic after NEW_TOPIC_TIMEOUT_S.

    Brokers learn of a new topic one after another, and each request may go to another broker.
    """
    deadline = time.monotonic() + NEW_TOPIC_TIMEOUT_S
    while True:
        try:
            return await ask()
        except MissingTopic:
            if time.monotonic() >= deadline:
                raise
        await asyncio.sleep(_POLL_S)


async def _describe(client: AIOKafkaAdminClient, name: str, asked: Mapping[str, str] | None = None) -> list[Any]:
    """Return the entries of a topic's settings: those asked for, or all.

    Raises Unavailable, MissingTopic, Fatal, and DescribeConfigsDenied.
    """
    try:
        answers: Any = await client.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name, configs=asked)])
    except KafkaError as error:
        raise kafka_fault(error, f"asking for the settings of topic {name}") from error
    code, message, _, _, entries = answers[0].resources[0]
    refusal = for_code(code)
    if refusal in (TopicAuthorizationFailedError, ClusterAuthorizationFailedError):
        raise DescribeConfigsDenied(f"topic {name}: Kafka does not allow DescribeConfigs, which Tally needs")
    if refusal is UnknownTopicOrPartitionError:
        raise MissingTopic(name)
    if refusal.retriable:
        raise kafka_fault(refusal(), f"asking for the settings of topic {name}")
    if code:
        raise Fatal(f"topic {name} (TALLY_TOPIC, TALLY_DEAD_LETTER_TOPIC): {message or refusal.__name__}")
    return list(entries)


async def check_topic(client: AIOKafkaAdminClient, name: str, required: Mapping[str, str] = REQUIRED) -> dict[str, str]:
    """Return the topic's settings. Raises Fatal when one differs from `required`."""
    asked = dict.fromkeys((*REQUIRED, RETENTION_MS), "")
    found = {entry[0]: entry[1] for entry in await once_known(lambda: _describe(client, name, asked))}
    for setting, wanted in required.items():
        if found.get(setting) != wanted:
            raise Fatal(f"topic {name} has {setting}={found.get(setting)}: set it to {wanted}, because {_WHY[setting]}")
    return found


async def topic_overrides(admin: AIOKafkaAdminClient, topic: str) -> dict[str, str]:
    """Return the settings that override the broker's defaults. Raises like `check_topic`."""
    entries = await once_known(lambda: _describe(admin, topic))
    return {entry[0]: entry[1] for entry in entries if entry[3] == _SET_ON_THE_TOPIC}


async def change_topic_settings(admin: AIOKafkaAdminClient, topic: str, **changes: str) -> None:
    """Change settings of a topic (names with _ for dots), and return once a broker applies them.

    Raises Unavailable and Fatal.
    """
    # The client has only the request that replaces all settings.
    changed = {name.replace("_", "."): value for name, value in changes.items()}
    wanted = await topic_overrides(admin, topic) | changed
    try:
        answers: Any = await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs=wanted)])
    except KafkaError as error:
        raise kafka_fault(error, f"changing topic {topic}") from error
    code, message = answers[0].resources[0][:2]
    if code:
        raise Fatal(f"topic {topic} could not be changed: {message or for_code(code).__name__}")

    async def is_applied() -> bool:
        return changed.items() <= (await topic_overrides(admin, topic)).items()

    await until_a_broker_has(is_applied, f"the changed settings of topic {topic}")


async def until_a_broker_has(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    """Return once the condition holds for the answer of a broker. Raises Unavailable after CHANGE_TIMEOUT_S.

    The controller acknowledges a change, or a new topic, before brokers have it.
    """
    try:
        async with asyncio.timeout(CHANGE_TIMEOUT_S):
            while not await condition():  # noqa: ASYNC110  (brokers do not announce it)
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise Unavailable(f"no broker has {what} after {CHANGE_TIMEOUT_S} s") from None


async def add_partitions(admin: AIOKafkaAdminClient, topic: str, total: int) -> None:
    """Increase a topic's partition count to `total`. Raises Unavailable and Fatal."""
    try:
        answer: Any = await admin.create_partitions({topic: NewPartitions(total)})
    except KafkaError as error:
        raise kafka_fault(error, f"adding partitions to topic {topic}") from error
    for _, code, message in answer.topic_errors:
        if code:
            raise Fatal(f"cannot add partitions to topic {topic}: {message or for_code(code).__name__}")
