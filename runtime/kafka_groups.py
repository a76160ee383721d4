"""Members of a consumer group, as the group's coordinator describes them."""

import re
from typing import Any, NamedTuple

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment
from aiokafka.errors import KafkaError, for_code

from runtime.faults.kafka import kafka_fault

_UUID = re.compile(r"-([0-9a-f]{8})-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")


class GroupMember(NamedTuple):
    """Member of a consumer group, with its partitions of one topic. During a rebalance it has none."""

    name: str
    """The group.instance.id; of a dynamic member the client's id and a part of the member's."""
    host: str
    partitions: tuple[int, ...]


async def group_members(client: AIOKafkaAdminClient, group: str, topic: str) -> list[GroupMember]:
    """Return the members of a group, by name. Raises as `kafka_fault` says."""
    try:
        (answer,) = await client.describe_consumer_groups([group])
        described: Any = answer
        ((error_code, _, _, _, _, members, *_),) = described.groups
        if error_code:
            raise for_code(error_code)
    except KafkaError as error:
        raise kafka_fault(error, f"asking for the members of group {group}") from error
    return sorted(
        GroupMember(_name(member_id, client_id), host.removeprefix("/"), _partitions(assignment, topic))
        for member_id, client_id, host, _, assignment in members
    )


def _name(member_id: str, client_id: str) -> str:
    """Return a short name. Kafka's member id is the group.instance.id, else the client's id, and a UUID."""
    found = _UUID.search(member_id)
    name = member_id[: found.start()] if found else member_id
    return f"{name}-{found[1]}" if found and name == client_id else name


def _partitions(assignment: bytes, topic: str) -> tuple[int, ...]:
    if not assignment:
        return ()
    decoded = ConsumerProtocolMemberAssignment.decode(assignment)
    return tuple(sorted(each.partition for each in decoded.partitions() if each.topic == topic))
