"""The files under `deploy/access` are what their stores understand."""

from pathlib import Path

from schemas.tables import MIGRATIONS
from tests.lab import Lab

SQL = Path(__file__).parent.parent / "deploy" / "access" / "clickhouse.sql"


async def test_clickhouse_understands_each_statement(lab: Lab) -> None:
    lines = [line for line in SQL.read_text().splitlines() if not line.startswith("--")]
    statements = [each.strip() for each in "\n".join(lines).split(";") if each.strip()]
    assert len(statements) > 10
    created = " ".join(statement for migration in MIGRATIONS for statement in migration.statements)
    for statement in statements:
        await lab.rows("SELECT formatQuery({statement:String})", statement=statement)
        if " ON tally." in statement and " ON tally.*" not in statement:
            table = statement.partition(" ON tally.")[2].split()[0]
            assert f"CREATE TABLE IF NOT EXISTS {table} " in created, statement
