"""The files under `deploy/access` are valid for their stores."""

import re

import yaml

from deploy.access.users_xml import SQL, users_xml
from schemas.migrations import MIGRATIONS
from tests.access_lab import ACCESS, Right, kafka_rights
from tests.lab import Lab


async def test_clickhouse_parses_each_statement(lab: Lab) -> None:
    lines = [line for line in SQL.read_text().splitlines() if not line.startswith("--")]
    statements = [each.strip() for each in "\n".join(lines).split(";") if each.strip()]
    assert len(statements) > 10
    created = " ".join(statement for migration in MIGRATIONS for statement in migration.statements)
    for statement in statements:
        await lab.rows("SELECT formatQuery({statement:String})", statement=statement)
        if " ON tally." in statement and " ON tally.*" not in statement:
            table = statement.partition(" ON tally.")[2].split()[0]
            assert f"CREATE TABLE IF NOT EXISTS {table} " in created, statement


def test_the_file_of_users_is_current() -> None:
    assert (ACCESS / "clickhouse-users.xml").read_text() == users_xml(), "run `make docs`"


def test_compose_has_the_users_of_valkey() -> None:
    content = yaml.safe_load((ACCESS.parents[1] / "docker-compose.yml").read_text())["configs"]["valkey-users"][
        "content"
    ]
    assert re.sub(r">\$\{([A-Z]+)_PASSWORD\}", r"#\1", content) == (ACCESS / "valkey.acl").read_text()


def test_kafka_rights_are_read_from_the_file() -> None:
    rights = kafka_rights("t", "t.letters", "g")
    assert Right("tally_collector", "Write", "topic", "t") in rights
    written = {right.name for right in rights if right.user == "tally_reader" and right.operation == "Write"}
    assert written == {"t"}, "replays of dead letters"
