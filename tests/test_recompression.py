"""Rows older than TALLY_RECOMPRESS_DAYS take half the bytes, and are read, deleted, audited and restored as before."""

import itertools
from typing import Any

import pytest

from producers.simulation.simulator import Simulator
from readers.audit import audit
from readers.lookup import read_stored, visible_ids
from readers.overview import count_verdicts
from runtime.clickhouse import connect
from runtime.deletions import Deletion, Deletions
from runtime.migrate import migrate
from schemas.tables import RECOMPRESSION_CODEC
from tests.lab import Lab
from tests.waiting import eventually_async

EVENTS = 3_000
PARTS = (
    "SELECT default_compression_codec, sum(data_compressed_bytes) FROM system.parts "
    "WHERE database = currentDatabase() AND table = 'interactions' AND active GROUP BY 1"
)
AGE = "ALTER TABLE interactions UPDATE timestamp = timestamp - toIntervalDay(40) WHERE 1 SETTINGS mutations_sync = 2"
MERGE = "OPTIMIZE TABLE interactions FINAL"
CONTENT = "SELECT * EXCEPT timestamp FROM interactions FINAL ORDER BY interaction_id, _partition, _offset"


async def with_events(lab: Lab) -> list[str]:
    """Store events, duplicates among the emitted ones; returns the stored ids."""
    await lab.emit_all(itertools.islice(Simulator(7, duplicates=0.1), EVENTS))
    await lab.drain()
    return [interaction_id for (interaction_id,) in await lab.rows("SELECT interaction_id FROM interactions FINAL")]


async def answers(lab: Lab, ids: list[str]) -> Any:
    """Return what readers answer, without the append times."""
    records = await read_stored(lab.database, "default", ids[:200])
    content = {each: {**row, "timestamp": None} for each, row in records.items()}
    counts = await count_verdicts(lab.settings, lab.database)
    accounts = [each async for each in audit(lab.settings, lab.database)]
    assert all(each.balances for each in accounts)
    return content, counts, accounts, await lab.rows(CONTENT)


async def test_old_rows_are_recompressed_and_answer_as_before(lab: Lab) -> None:
    ids = await with_events(lab)
    before = await answers(lab, ids)
    await lab.database.command(MERGE)
    ((fresh_codec, fresh_bytes),) = await lab.rows(PARTS)
    assert fresh_codec == "LZ4"

    await lab.database.command(AGE)
    await lab.database.command(MERGE)
    ((old_codec, old_bytes),) = await lab.rows(PARTS)
    assert old_codec == RECOMPRESSION_CODEC
    assert old_bytes < 0.65 * fresh_bytes
    assert await answers(lab, ids) == before

    deletions, deleted = Deletions(lab.database), Deletion(ids[0], "default")
    await deletions.note(deleted)
    await deletions.erase([deleted])
    assert await visible_ids(lab.database, "default", ids[:3]) == set(ids[1:3])
    await lab.database.command(MERGE)
    assert await visible_ids(lab.database, "default", ids[:3]) == set(ids[1:3])
    accounts = [each async for each in audit(lab.settings, lab.database)]
    assert (sum(each.deleted for each in accounts), all(each.balances for each in accounts)) == (1, True)


async def test_a_backup_keeps_recompressed_rows(lab: Lab) -> None:
    await with_events(lab)
    await lab.database.command(AGE)
    await lab.database.command(MERGE)
    content, parts, name = await lab.rows(CONTENT), await lab.rows(PARTS), lab.settings.database
    file = lab.settings.topic
    async with connect(lab.settings, database="default") as server:
        await server.command(f"BACKUP DATABASE {name} TO File('{file}')")
        await server.command(f"DROP DATABASE {name} SYNC")
        await server.command(f"RESTORE DATABASE {name} FROM File('{file}')")
    assert await lab.rows(PARTS) == parts
    assert {codec for codec, _ in parts} == {RECOMPRESSION_CODEC}
    assert await lab.rows(CONTENT) == content
    assert await migrate(lab.settings) == []


async def definition(lab: Lab) -> str:
    """Return the definition of the table."""
    ((found,),) = await lab.rows(
        "SELECT create_table_query FROM system.tables WHERE database = currentDatabase() AND name = 'interactions'"
    )
    return str(found)


async def test_a_changed_setting_reaches_parts_that_exist(lab: Lab) -> None:
    async def codecs() -> set[str]:
        return {codec for codec, _ in await lab.rows(PARTS)}

    off, on = (lab.settings.model_copy(update={"recompress_days": days}) for days in (0, 30))
    assert await migrate(off) == []
    assert " TTL " not in await definition(lab)
    await with_events(lab)
    content = await lab.rows(CONTENT)
    await lab.database.command(AGE)
    await lab.database.command(MERGE)
    assert await codecs() == {"LZ4"}

    await migrate(on)

    async def are_recompressed() -> bool:
        return await codecs() == {RECOMPRESSION_CODEC}

    await eventually_async(are_recompressed)
    assert await lab.rows(CONTENT) == content
    changes = "SELECT count() FROM system.mutations WHERE database = currentDatabase()"
    before = await lab.rows(changes)
    await migrate(on)
    assert await lab.rows(changes) == before, "without a change no part is touched"
    await migrate(off)
    assert " TTL " not in await definition(lab)


async def test_a_foreign_ttl_is_kept(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    await lab.database.command("ALTER TABLE interactions MODIFY TTL toDateTime(timestamp) + toIntervalYear(9) DELETE")
    before = await definition(lab)
    for days in (30, 0):
        await migrate(lab.settings.model_copy(update={"recompress_days": days}))
        assert await definition(lab) == before
    assert "TALLY_RECOMPRESS_DAYS has no effect" in caplog.text
