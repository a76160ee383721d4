"""Old outcomes leave their table, never the accounts."""

from datetime import UTC, datetime
from typing import Any

import pytest

from consumers.retention import expire_interactions, expire_outcomes
from readers.audit import PartitionAudit, audit
from readers.overview import count_verdicts
from runtime.clickhouse import ClickHouse
from tests.lab import Lab, click
from tests.waiting import eventually_async

NOW = datetime(2026, 6, 15, tzinfo=UTC)
OLD = """
INSERT INTO outcomes (namespace, interaction_id, _topic, _partition, _offset, verdict, timestamp)
SELECT 'default', concat('int_', toString(number)), {topic:String}, number % 2, number,
       if(number % 3 = 0, 'rejected', 'duplicate'), {at:DateTime64(3)} FROM numbers({first:UInt64}, {count:UInt64})
"""


async def test_whole_months_move_to_the_ledger_and_still_count(lab: Lab) -> None:
    for at, first, count in (("2026-01-31 23:59:59", 0, 30), ("2026-03-16 00:00:00", 30, 12), ("2026-06-01", 42, 6)):
        parameters = {"topic": lab.settings.topic, "at": at, "first": first, "count": count}
        await lab.database.command(OLD, parameters)
    before = await count_verdicts(lab.settings, lab.database)
    assert before.total == 48

    assert await expire_outcomes(lab.database, keep_days=90, now=NOW) == [202601]
    ledger = await lab.rows(
        "SELECT _partition, verdict, month, first_offset, last_offset, events FROM ledger ORDER BY ALL"
    )
    assert ledger == [
        (0, "duplicate", 202601, 2, 28, 10),
        (0, "rejected", 202601, 0, 24, 5),
        (1, "duplicate", 202601, 1, 29, 10),
        (1, "rejected", 202601, 3, 27, 5),
    ]
    assert await lab.count("outcomes") == 18
    assert await count_verdicts(lab.settings, lab.database) == before
    assert await expire_outcomes(lab.database, keep_days=90, now=NOW) == []


@pytest.mark.parametrize("crash_at", ["MOVE PARTITION", "INSERT INTO ledger", "DROP PARTITION"])
async def test_a_crash_before_the_drop_neither_loses_nor_doubles_events(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, crash_at: str
) -> None:
    await lab.database.command(OLD, {"topic": lab.settings.topic, "at": "2026-01-02", "first": 0, "count": 30})
    before = await count_verdicts(lab.settings, lab.database)
    real = ClickHouse.command

    async def crash_on_drop(self: ClickHouse, sql: str, parameters: Any = None) -> None:
        if crash_at in sql:
            raise KeyboardInterrupt
        await real(self, sql, parameters)

    monkeypatch.setattr(ClickHouse, "command", crash_on_drop)
    with pytest.raises(KeyboardInterrupt):
        await expire_outcomes(lab.database, keep_days=90, now=NOW)
    monkeypatch.undo()
    await expire_outcomes(lab.database, keep_days=90, now=NOW)
    assert await count_verdicts(lab.settings, lab.database) == before
    assert await lab.rows("SELECT count() FROM outcomes_expiring") == [(0,)]


async def test_late_outcomes_of_a_month_in_the_ledger_are_added(lab: Lab) -> None:
    for first in (0, 30):
        await lab.database.command(OLD, {"topic": lab.settings.topic, "at": "2026-01-02", "first": first, "count": 30})
        assert await expire_outcomes(lab.database, keep_days=90, now=NOW) == [202601]
    assert (await count_verdicts(lab.settings, lab.database)).total == 60


async def test_a_worker_expires_rows_at_its_start(lab: Lab) -> None:
    await lab.database.command(OLD, {"topic": "old", "at": "2020-01-02", "first": 0, "count": 3})
    await lab.emit(click())
    await lab.drain()
    assert await lab.rows("SELECT sum(events) FROM ledger FINAL") == [(3,)]
    assert await lab.count("outcomes") == 0


async def _three_months(lab: Lab) -> list[PartitionAudit]:
    """Events that were stored, as if in January, February and June; one of January is deleted. Returns their audit."""
    await lab.emit_all(click(f"doc-{number}") for number in range(60))
    assert (await lab.drain()).stored == 60
    january = "timestamp - toIntervalMonth(dateDiff('month', toDate('2026-01-01'), timestamp))"
    columns = "* REPLACE ({} AS timestamp, {} AS version, {} AS is_deleted)"
    for number, months in ((0, 0), (1, 1), (2, 5)):
        moved = columns.format(f"{january} + toIntervalMonth({months})", 2, "feature_id = 'doc-0'")
        await lab.database.command(
            f"INSERT INTO interactions SELECT {moved} FROM ("
            f"SELECT * FROM interactions WHERE toUInt32(substring(feature_id, 5)) % 3 = {number} AND version = 0)"
        )
    await lab.database.command("ALTER TABLE interactions DELETE WHERE version = 0 SETTINGS mutations_sync = 2")
    parts = [each async for each in audit(lab.settings, lab.database)]
    assert (sum(each.stored for each in parts), sum(each.deleted for each in parts)) == (59, 1)
    return parts


async def test_events_expire_by_month_and_their_counts_stay(lab: Lab) -> None:
    parts = await _three_months(lab)
    before = await count_verdicts(lab.settings, lab.database)
    assert await expire_interactions(lab.database, 90, NOW, wait=True) == 40
    assert await lab.count("interactions") == 20
    assert await lab.rows("SELECT verdict, month, sum(events) FROM ledger FINAL GROUP BY ALL ORDER BY ALL") == [
        ("stored", 202601, 19),
        ("stored", 202602, 20),
        ("deleted", 202601, 1),
    ]
    assert await count_verdicts(lab.settings, lab.database) == before
    assert [each async for each in audit(lab.settings, lab.database)] == parts
    assert await expire_interactions(lab.database, 90, NOW, wait=True) == 0


async def test_a_crash_between_counting_and_deleting_counts_nothing_twice(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = await _three_months(lab)
    real = ClickHouse.command

    async def crash_on_delete(self: ClickHouse, sql: str, parameters: Any = None) -> None:
        if sql.startswith("ALTER TABLE"):
            raise KeyboardInterrupt
        await real(self, sql, parameters)

    monkeypatch.setattr(ClickHouse, "command", crash_on_delete)
    with pytest.raises(KeyboardInterrupt):
        await expire_interactions(lab.database, 90, NOW, wait=True)
    monkeypatch.undo()
    assert await lab.count("interactions") > 20
    assert [each async for each in audit(lab.settings, lab.database)] == parts, "rows and ledger are not added up"
    await expire_interactions(lab.database, 90, NOW, wait=True)
    assert [each async for each in audit(lab.settings, lab.database)] == parts


async def test_a_worker_deletes_events_only_if_configured(lab: Lab) -> None:
    await _three_months(lab)
    await lab.drain()
    assert await lab.count("interactions") == 59
    await lab.emit(click("new"))
    await lab.drain(interactions_days=90)

    async def are_gone() -> bool:
        old = "SELECT count() FROM interactions WHERE timestamp < now() - toIntervalDay(120)"
        return await lab.rows(old) == [(0,)]

    await eventually_async(are_gone)
