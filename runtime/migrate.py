"""Migrations of a ClickHouse database. `schemas/migrations.py` defines them."""

import hashlib
import logging
import re
from typing import NamedTuple

from runtime.clickhouse import ClickHouse, connect
from runtime.errors import Fatal, SettingsError
from runtime.settings import Settings
from schemas.analytics.catalogue import views
from schemas.cluster import local, of_partition, on_cluster
from schemas.migrations import BOOTSTRAP, LATEST_VERSION, MIGRATIONS
from schemas.tables import INTERACTIONS, MIGRATIONS_TABLE, TOPICS, recompression_ttl

_DATABASE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
_TTL = re.compile(r" TTL (.*?)(?: SETTINGS |$)")
_OWN_TTL = re.compile(r"|toDateTime\(timestamp\) \+ toIntervalDay\(\d+\) RECOMPRESS CODEC\(\w+\(\d+\)\)")
_DEFINITION = (
    "SELECT create_table_query FROM system.tables WHERE database = currentDatabase() AND name = {table:String}"
)

log = logging.getLogger("tally.tables")


async def migrate(settings: Settings) -> list[int]:
    """Apply missing migrations, replace the views and apply TALLY_RECOMPRESS_DAYS; return the migrations' versions.

    Safe to repeat, also after a crash half-way.

    Raises Fatal when a newer version of Tally made the database, and when a table has the name of a view.
    """
    if not _DATABASE_NAME.fullmatch(settings.database):
        raise SettingsError(f"TALLY_DATABASE: {settings.database!r} is not a plain name")
    async with connect(settings, database="default") as server:
        everywhere = f" ON CLUSTER '{settings.clickhouse_cluster}'" if settings.clickhouse_cluster else ""
        await server.command(f"CREATE DATABASE IF NOT EXISTS {settings.database}{everywhere}")
    async with connect(settings) as database:
        for statement in BOOTSTRAP:
            await _run(settings, database, statement)
        present = (await _newest(settings, database)).version
        applied = []
        for migration in MIGRATIONS:
            if migration.version > present:
                for statement in migration.statements:
                    await _run(settings, database, statement)
                await database.command(
                    f"INSERT INTO {MIGRATIONS_TABLE} (version, oldest) SELECT {{version:UInt32}}, {{oldest:UInt32}}",
                    {"version": migration.version, "oldest": migration.oldest},
                )
                applied.append(migration.version)
        await _replace_views(settings, database)
        await _set_recompression(settings, database)
        return applied


async def _replace_views(settings: Settings, database: ClickHouse) -> None:
    """Create the views of this version again, unless they are there with the same path of the query's text.

    Raises Fatal when somebody else's table or view has the name of one.
    """
    statements = views(settings.query_path)
    mark = f"tally {hashlib.sha256(repr(statements).encode()).hexdigest()[:16]}"
    found = await database.rows(
        "SELECT count() FROM system.tables WHERE database = currentDatabase() AND comment = {mark:String}",
        {"mark": mark},
    )
    if found[0][0] == len(statements):
        return
    foreign = await database.rows(
        "SELECT name FROM system.tables WHERE database = currentDatabase() AND name IN {names:Array(String)} "
        "AND NOT (engine = 'View' AND startsWith(comment, 'tally ')) ORDER BY name",
        {"names": list(statements)},
    )
    if foreign:
        raise Fatal(
            f"{settings.database}.{foreign[0][0]} is not a view of Tally's, and a view of this name would replace it: "
            "rename it, or set another TALLY_DATABASE"
        )
    for statement in statements.values():
        await _run(settings, database, f"{statement} COMMENT '{mark}'")


async def _set_recompression(settings: Settings, database: ClickHouse) -> None:
    """Make the age at which rows are recompressed that of the settings.

    Only the table's definition and each part's times change here. ClickHouse recompresses in the background. A TTL that
    somebody else has set, to move old parts to another disk for example, is kept.
    """
    cluster, wanted = settings.clickhouse_cluster, recompression_ttl(settings.recompress_days)
    ((definition,),) = await database.rows(_DEFINITION, {"table": local(INTERACTIONS) if cluster else INTERACTIONS})
    found = _TTL.search(definition)
    present = found[1] if found else ""
    if wanted == present:
        return
    if not _OWN_TTL.fullmatch(present):
        if wanted:
            log.warning(
                "%s has a TTL that is not Tally's, so TALLY_RECOMPRESS_DAYS has no effect: %s", INTERACTIONS, present
            )
        return
    change = f"MODIFY TTL {wanted}" if wanted else "REMOVE TTL"
    await database.command(of_partition(change, INTERACTIONS, None, cluster))
    log.info("%s: %s (TALLY_RECOMPRESS_DAYS=%d)", INTERACTIONS, change, settings.recompress_days)


async def _run(settings: Settings, database: ClickHouse, statement: str) -> None:
    cluster = settings.clickhouse_cluster
    for each in on_cluster(statement, cluster, settings.database) if cluster else (statement,):
        await database.command(each)


async def check_schema(settings: Settings, database: ClickHouse) -> None:
    """Raise Fatal unless the database has this version's tables, or newer ones that stay compatible with it."""
    present = (await _newest(settings, database)).version
    if present < LATEST_VERSION:
        raise Fatal(f"database {settings.database} has schema {present}, needs {LATEST_VERSION}: run `tally init`")


async def check_partition_count(settings: Settings, database: ClickHouse, count: int) -> None:
    """Record the topic's partition count. Raises Fatal when another count was recorded before."""
    where = {"topic": settings.topic, "count": count}
    known = await database.rows(f"SELECT partitions FROM {TOPICS} FINAL WHERE topic = {{topic:String}}", where)
    if not known:
        await database.command(
            f"INSERT INTO {TOPICS} (topic, partitions) SELECT {{topic:String}}, {{count:UInt32}}", where
        )
    elif known[0][0] != count:
        raise Fatal(partition_count_changed(settings.topic, known[0][0], count))


def partition_count_changed(topic: str, before: int, now: int) -> str:
    """Return the error for a changed partition count, which separates keys from their claims."""
    return (
        f"topic {topic} (TALLY_TOPIC) has {now} partitions and had {before}: the same key is now on another partition, "
        "where its earlier events are unknown. Add partitions with `tally topic expand` only, or use a new topic for "
        "new events"
    )


class _Newest(NamedTuple):
    """Newest applied migration, 0 for none, and the oldest version that a process must know."""

    version: int
    oldest: int


async def _newest(settings: Settings, database: ClickHouse) -> _Newest:
    """Read the newest applied migration. Raises Fatal when the tables are too new for this version."""
    (found,) = await database.rows(f"SELECT max(version), max(oldest) FROM {MIGRATIONS_TABLE}")
    newest = _Newest(*map(int, found))
    if newest.oldest > LATEST_VERSION:
        raise Fatal(
            f"database {settings.database} has schema {newest.version}, which needs a version of Tally that knows "
            f"{newest.oldest}; this one knows {LATEST_VERSION}: upgrade Tally, or set another TALLY_DATABASE"
        )
    return newest
