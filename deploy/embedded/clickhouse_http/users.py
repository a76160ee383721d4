"""Users of the front, and their rights in the engine.

The engine runs everything as a single user. Each user of the front is a role of that user, and a session assumes its
user's role before it runs a statement. So the engine itself refuses what the role was not granted.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

OWNER_GRANTS = (
    "GRANT SHOW, SELECT, INSERT, ALTER, CREATE DATABASE, CREATE TABLE, CREATE VIEW, CREATE TEMPORARY TABLE, DROP, "
    "UNDROP TABLE, TRUNCATE, OPTIMIZE, CHECK, KILL QUERY, BACKUP ON *.*",
)
"""All rights on tables, and none on files, the network, users or the server's configuration."""

BACKUP_ROLE = "backup_files"
"""Role for BACKUP and RESTORE only. The engine confines both to one folder, but requires the right to any file."""

_OWN_ROLES = {
    BACKUP_ROLE: ("GRANT FILE ON *.*",),
    "front": ("GRANT SHOW, KILL QUERY ON *.*",),
}
"""Rights of the front itself: it chooses a session's database, and kills queries of disconnected clients."""

LOCKED_SETTINGS = (
    # In another dialect a statement would be parsed differently than it was checked.
    *("dialect", "polyglot_dialect", "promql_database", "promql_table"),
    # Expressions that become part of a statement, but are not in its text.
    *("select", "filter", "order", "sort", "additional_result_filter", "additional_table_filters"),
    *("parallel_replicas_custom_key", "implicit_table_at_top_level"),
    # Files that are read or written.
    *("format_schema", "format_schema_source", "output_format_schema"),
    *("format_template_row", "format_template_resultset", "input_format_record_errors_file_path"),
    *("rename_files_after_processing", "filesystem_cache_name", "distributed_cache_file_cache_name"),
    # Other machines.
    *("format_avro_schema_registry_url", "url_base", "s3_base", "cluster_for_parallel_replicas"),
    *("ai_function_text_default_credentials", "ai_function_embedding_default_credentials"),
)
"""Settings that no user may change: neither in a URL, nor in a statement, nor in a table's definition."""


class User(NamedTuple):
    """User of the front. The default has no password, for an engine that listens on the loopback address only."""

    name: str = "default"
    password: str = ""
    grants: tuple[str, ...] = OWNER_GRANTS
    """GRANT and REVOKE statements without their grantee."""
    only_reads: bool = False

    @property
    def role(self) -> str:
        """Name of the engine's role."""
        return f"user_{self.name}"


class StatementCaller(NamedTuple):
    """Caller of a statement, with its unparsed settings."""

    user: User
    query_id: str
    database: str | None
    settings: Mapping[str, str]

    @property
    def mark(self) -> str:
        """Mark of a running query. It includes the user's name, so that no user can kill another's query."""
        return f"{self.user.name} {self.query_id}"


def analyst(name: str, password: str, database: str, hidden_tables: Iterable[str]) -> User:
    """Return a user who may read the tables and views of one database, except `hidden_tables`."""
    of = identifier(database)
    hidden = (f"REVOKE SELECT ON {of}.{identifier(table)}" for table in hidden_tables)
    return User(name, password, (f"GRANT SELECT ON {of}.*", *hidden), only_reads=True)


def as_json(users: Sequence[User]) -> str:
    """Return the file of users as JSON."""
    return json.dumps([user._asdict() for user in users], indent=2)


def read_users(path: Path) -> list[User]:
    """Read the users of a file written by `as_json`."""
    entries: list[dict[str, Any]] = json.loads(path.read_text())
    return [User(**{**entry, "grants": tuple(entry["grants"])}) for entry in entries]


def engine_config(backups: Path, users_file: str) -> str:
    """Return the engine's configuration file."""
    return (
        "<clickhouse>\n"
        f"    <user_directories><users_xml><path>{escape(users_file)}</path></users_xml></user_directories>\n"
        f"    <backups><allowed_path>{escape(str(backups))}</allowed_path></backups>\n"
        "</clickhouse>\n"
    )


def engine_users(users: Iterable[User]) -> str:
    """Return the engine's file of users: one user, and a role for each user of the front."""
    roles = {user.role: user.grants for user in users} | _OWN_ROLES
    locked = "".join(f"<{name}><readonly/></{name}>" for name in LOCKED_SETTINGS)
    granted = ", ".join(map(identifier, roles))
    return (
        "<clickhouse>\n"
        f"<profiles><default><constraints>{locked}</constraints></default></profiles>\n"
        "<quotas><default></default></quotas>\n"
        "<roles>\n" + "".join(f"<{name}>{_grants(each)}</{name}>\n" for name, each in roles.items()) + "</roles>\n"
        "<users><default><no_password/><networks><ip>::/0</ip></networks><profile>default</profile>"
        f"<quota>default</quota>{_grants([f'GRANT {granted}'])}</default></users>\n"
        "</clickhouse>\n"
    )


def _grants(statements: Iterable[str]) -> str:
    return "<grants>" + "".join(f"<query>{escape(each)}</query>" for each in statements) + "</grants>"


def identifier(name: str) -> str:
    """Quote a name for a statement."""
    return "`" + re.sub(r"([\\`])", r"\\\1", name) + "`"
