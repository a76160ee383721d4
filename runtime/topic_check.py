"""Required settings of a topic, checked before it is used."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    KafkaError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    for_code,
)

from runtime.errors import Fatal
from runtime.faults.kafka import kafka_fault

TIMESTAMP_TYPE = "message.timestamp.type"
LOG_APPEND_TIME = "LogAppendTime"
CLEANUP_POLICY = "cleanup.policy"
DELETE = "delete"
RETENTION_MS = "retention.ms"

REQUIRED: Mapping[str, str] = MappingProxyType({TIMESTAMP_TYPE: LOG_APPEND_TIME, CLEANUP_POLICY: DELETE})
"""Settings of the topic of events."""
REQUIRED_OF_DEAD_LETTERS: Mapping[str, str] = MappingProxyType({CLEANUP_POLICY: DELETE})
"""Settings of the dead-letter topic."""

_WHY = {
    TIMESTAMP_TYPE: "deduplication compares append times, which a producer must not be able to choose",
    CLEANUP_POLICY: "compaction removes every record but the last of a key, read or not",
}


class DescribeConfigsDenied(Fatal):
    """Refusal of DescribeConfigs: Kafka does not show this user a topic's settings."""


async def topic_settings(client: AIOKafkaAdminClient, name: str) -> dict[str, str]:
    """Read the settings that Tally checks. Raises Fatal for a missing topic, and DescribeConfigsDenied."""
    asked = dict.fromkeys((*REQUIRED, RETENTION_MS), "")
    try:
        answers: Any = await client.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name, configs=asked)])
    except KafkaError as error:
        raise kafka_fault(error, f"asking for the settings of topic {name}") from error
    code, message, _, _, entries = answers[0].resources[0]
    refusal = for_code(code)
    if refusal in (TopicAuthorizationFailedError, ClusterAuthorizationFailedError):
        raise DescribeConfigsDenied(f"topic {name}: Kafka does not allow DescribeConfigs, which Tally needs")
    if refusal.retriable and refusal is not UnknownTopicOrPartitionError:
        raise kafka_fault(refusal(), f"asking for the settings of topic {name}")
    if code:
        why = message or refusal.__name__
        raise Fatal(f"topic {name} (TALLY_TOPIC, TALLY_DEAD_LETTER_TOPIC): {why}; `tally init` creates it")
    return {entry[0]: entry[1] for entry in entries}


async def check_topic(client: AIOKafkaAdminClient, name: str, required: Mapping[str, str] = REQUIRED) -> dict[str, str]:
    """Return the topic's settings. Raises Fatal when one differs from `required`."""
    found = await topic_settings(client, name)
    for setting, wanted in required.items():
        if found.get(setting) != wanted:
            raise Fatal(f"topic {name} has {setting}={found.get(setting)}: set it to {wanted}, because {_WHY[setting]}")
    return found
