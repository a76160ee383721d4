"""Changes of a live topic: its settings and its partition count."""

from typing import Any

from aiokafka.admin import AIOKafkaAdminClient, NewPartitions
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, for_code

from runtime.errors import Fatal
from runtime.faults.kafka import kafka_fault

MAX_MESSAGE_BYTES = "max.message.bytes"
_SET_ON_THE_TOPIC = 1
"""Kafka's number for the config source "dynamic topic config"."""


async def topic_overrides(admin: AIOKafkaAdminClient, topic: str) -> dict[str, str]:
    """Return the settings that override the broker's defaults. Raises Unavailable and Fatal."""
    try:
        answers: Any = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
    except KafkaError as error:
        raise kafka_fault(error, f"asking for the settings of topic {topic}") from error
    code, message, _, _, entries = answers[0].resources[0]
    if code:
        raise Fatal(f"topic {topic}: {message or for_code(code).__name__}")
    return {entry[0]: entry[1] for entry in entries if entry[3] == _SET_ON_THE_TOPIC}


async def change_topic_settings(admin: AIOKafkaAdminClient, topic: str, **changes: str) -> None:
    """Change settings of a topic (names with _ for dots). Raises Unavailable and Fatal."""
    # The client has only the request that replaces all settings.
    wanted = await topic_overrides(admin, topic) | {name.replace("_", "."): value for name, value in changes.items()}
    try:
        answers: Any = await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs=wanted)])
    except KafkaError as error:
        raise kafka_fault(error, f"changing topic {topic}") from error
    code, message = answers[0].resources[0][:2]
    if code:
        raise Fatal(f"topic {topic} could not be changed: {message or for_code(code).__name__}")


async def add_partitions(admin: AIOKafkaAdminClient, topic: str, total: int) -> None:
    """Increase a topic's partition count to `total`. Raises Unavailable and Fatal."""
    try:
        answer: Any = await admin.create_partitions({topic: NewPartitions(total)})
    except KafkaError as error:
        raise kafka_fault(error, f"adding partitions to topic {topic}") from error
    for _, code, message in answer.topic_errors:
        if code:
            raise Fatal(f"cannot add partitions to topic {topic}: {message or for_code(code).__name__}")
