"""The rights that the files of `deploy/access` give, as the embedded stores take them."""

import hashlib
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from aiokafka.protocol.admin import CreateAclsRequest

from deploy.access.users_xml import rights_by_role
from deploy.embedded.clickhouse_http.users import User
from runtime import kafka
from runtime.settings import Settings

ACCESS = Path(__file__).parent.parent / "deploy" / "access"
_OPERATIONS = {"All": 2, "Read": 3, "Write": 4, "Describe": 8, "DescribeConfigs": 10}
_RESOURCES = {"topic": 2, "group": 3}
_LITERAL, _ALLOW = 3, 3


class Right(NamedTuple):
    """Permission of a user in Kafka."""

    user: str
    operation: str
    resource: str
    name: str


def kafka_rights(topic: str, letters: str, group: str) -> list[Right]:
    """The lines of kafka.sh."""
    names = {"$TOPIC": topic, "$LETTERS": letters, "$GROUP": group}
    found = []
    for line in (ACCESS / "kafka.sh").read_text().splitlines():
        if line.startswith("allow "):
            _, user, *options, resource, name = shlex.split(line)
            operations = [word for word in options if not word.startswith("--")]
            found += [Right(user, each, resource.removeprefix("--"), names[name]) for each in operations]
    return found


async def grant_in_kafka(administrator: Settings, rights: list[Right]) -> None:
    """Do the work of kafka-acls.sh, whose class is not among the embedded jars."""
    async with kafka.admin(administrator) as client:
        for right in rights:
            request = CreateAclsRequest(
                _RESOURCES[right.resource],
                right.name,
                _LITERAL,
                f"User:{right.user}",
                "*",
                _OPERATIONS[right.operation],
                _ALLOW,
            )
            answer: Any = await client._send_to_controller(request)
            assert not any(error for error, _message in answer.creation_responses), right


def valkey_users(passwords: Mapping[str, str]) -> str:
    """valkey.acl with the hashes of passwords, by user."""
    rules = (ACCESS / "valkey.acl").read_text()
    for user, password in passwords.items():
        role = user.removeprefix("tally_").upper()
        rules = rules.replace(f"#{role} ", f"#{hashlib.sha256(password.encode()).hexdigest()} ")
    return rules


def clickhouse_users(database: str, passwords: Mapping[str, str]) -> list[User]:
    """The roles of clickhouse.sql as users of the embedded front, on another database."""
    return [
        User(
            role,
            passwords[role],
            tuple(each.replace(" ON tally.", f" ON {database}.") for each in rights.grants),
            only_reads=rights.only_reads,
        )
        for role, rights in rights_by_role().items()
    ]
