"""Generator of a ClickHouse `users.d` file from clickhouse.sql: `python -P -m deploy.access.users_xml`.

clickhouse.sql is the only definition of the grants. docker-compose.yml mounts the generated file, which has no
passwords: they come from the server's environment.
"""

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

SQL = Path(__file__).parent / "clickhouse.sql"
_GRANT = re.compile(r"((?:GRANT|REVOKE) .*) (?:TO|FROM) (tally_\w+)", re.DOTALL)
_ONLY_READS = re.compile(r"DEFAULT ROLE (\w+) SETTINGS readonly = 1")


class Rights(NamedTuple):
    """Grants of a role, as statements without their grantee."""

    grants: Sequence[str]
    only_reads: bool


def rights_by_role() -> Mapping[str, Rights]:
    """Return the grants of each role in clickhouse.sql."""
    text = re.sub(r"^--.*$", "", SQL.read_text(), flags=re.MULTILINE)
    grants: dict[str, list[str]] = {}
    for statement in map(str.strip, text.split(";")):
        if found := _GRANT.fullmatch(statement):
            grants.setdefault(found[2], []).append(found[1])
    only_read = set(_ONLY_READS.findall(text))
    return {role: Rights(statements, role in only_read) for role, statements in grants.items()}


def users_xml() -> str:
    """Return the text of the file."""
    users = "".join(_user(role, rights) for role, rights in rights_by_role().items())
    return (
        "<!-- Made from clickhouse.sql by `make docs`. -->\n<clickhouse>\n"
        "    <profiles>\n        <tally_only_reads><readonly>1</readonly></tally_only_reads>\n    </profiles>\n"
        f"    <users>\n{users}    </users>\n</clickhouse>\n"
    )


def _user(role: str, rights: Rights) -> str:
    grants = "".join(f"                <query>{escape(each)}</query>\n" for each in rights.grants)
    return (
        f"        <{role}>\n"
        f'            <password from_env="{role.removeprefix("tally_").upper()}_PASSWORD"/>\n'
        "            <networks><ip>::/0</ip></networks>\n"
        f"            <profile>{'tally_only_reads' if rights.only_reads else 'default'}</profile>\n"
        "            <quota>default</quota>\n"
        f"            <grants>\n{grants}            </grants>\n"
        f"        </{role}>\n"
    )


if __name__ == "__main__":
    sys.stdout.write(users_xml())
