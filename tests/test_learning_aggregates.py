"""Counts of touched days: always those of a count from scratch, whatever happens in between."""

import asyncio
from datetime import UTC, datetime
from random import Random

import pytest

from learning.estimators.posterior import posterior
from learning.weights import aggregates
from learning.weights.aggregates import count_all, count_once
from learning.weights.count_check import check_counts, count_status, differences
from learning.weights.count_cleanup import delete_superseded
from learning.weights.count_progress import CountShape
from learning.weights.counts import GLOBAL, ContextKey, read_counts
from runtime.deletions import Deletion, Deletions
from schemas.interaction import INTERACTION_TYPES
from schemas.learning_config import LearningConfig
from schemas.type_sets import TYPE_SET_SQL, type_set
from tests.counts_lab import (
    DAY_NUMBER,
    NAMESPACE,
    PERSONAL,
    RETRIEVER,
    Configurations,
    Row,
    StoredLog,
    counted_from_scratch,
    rows_in_force,
    summing_counter,
)
from tests.crashes import Crashed
from tests.lab import Lab

LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


@pytest.fixture
async def log(lab: Lab) -> StoredLog:
    await lab.database.command("INSERT INTO topics (topic, partitions) VALUES ('t', 2)")
    return StoredLog(lab)


@pytest.fixture
def configs(lab: Lab) -> Configurations:
    return Configurations(lab.database)


async def counted(lab: Lab) -> list[str]:
    """Count, and return the counted days as retriever/number after DAY."""
    found = await count_once(lab.settings)
    return [f"{day.retriever}/{day.day - DAY_NUMBER}" for days in found.values() for day in days]


async def delete(lab: Lab, *rows: Row) -> None:
    gone = [Deletion(each["interaction_id"], NAMESPACE) for each in rows]
    for each in gone:
        await Deletions(lab.database).note(each)
    await Deletions(lab.database).erase(gone)


async def assert_counted(lab: Lab, shapes: dict[str, CountShape], since: datetime = LONG_AGO) -> None:
    """The counts in force are those of the reference, and of the check."""
    assert await rows_in_force(lab.database) == await counted_from_scratch(lab.database, shapes, since)
    assert await differences(lab.settings, lab.database) == []


async def test_a_day_by_hand(lab: Lab, log: StoredLog, configs: Configurations) -> None:
    """Midnight divides a result, events without a feature teach nothing, and other retrievers do not count."""
    await configs.put(demographic_features=["INPUT.device"])
    await log.store(
        log.row("a", user_id="ann", metadata={"device": "ios"}),
        log.row("a", "click", second=1, user_id="bob"),
        log.row("a", ["click", "impression"], second=2),
        log.row("a", "purchase", day=1, user_id="ann"),
        log.row("b", user_id="ann"),
        log.row("b", user_id="ann", execution_id="e2"),
        log.row("c", feature_uri=None),
        log.row("d", retriever_id="other"),
    )
    assert await counted(lab) == [f"{RETRIEVER}/0", f"{RETRIEVER}/1"]
    impression, click, purchase = (type_set([name]) for name in ("impression", "click", "purchase"))
    all_three = (impression, click, impression | click), (1, 1, 1)
    first, second = DAY_NUMBER, DAY_NUMBER + 1
    assert await rows_in_force(lab.database) == [
        (RETRIEVER, "global", "", first, "text", (impression,), (1,), 2),
        (RETRIEVER, "global", "", first, "text", *all_three, 1),
        (RETRIEVER, "global", "", second, "text", (purchase,), (1,), 1),
        (RETRIEVER, "personal", "ann", first, "text", (impression,), (1,), 2),
        (RETRIEVER, "personal", "ann", second, "text", (purchase,), (1,), 1),
        (RETRIEVER, "personal", "bob", first, "text", *all_three, 1),
        (RETRIEVER, "segment", "ios", first, "text", *all_three, 1),
    ]
    await assert_counted(lab, {RETRIEVER: CountShape(True, (("device",),))})


async def test_only_touched_days_are_counted(lab: Lab, log: StoredLog, configs: Configurations) -> None:
    await configs.put()
    await configs.put("second")
    old, *_ = rows = [log.row(day=day) for day in range(5)] + [
        log.row(day=day, retriever_id="second") for day in (0, 3)
    ]
    await log.store(*rows)
    assert len(await counted(lab)) == 7
    assert await counted(lab) == []

    await log.store(log.row(day=1, partition=1), log.row(day=4, retriever_id="other"), log.row(day=2, feature_uri=""))
    assert await counted(lab) == [f"{RETRIEVER}/1"]
    await log.store(old)
    assert await counted(lab) == [], "a repeated insert changes nothing"
    await delete(lab, rows[3])
    assert await counted(lab) == [f"{RETRIEVER}/3", "second/3"], "a tombstone has no retriever any more"
    assert await counted(lab) == []

    await configs.put("second", min_interactions=50)
    assert await counted(lab) == [], "the rows are the same"
    await configs.put("second", demographic_features=["INPUT.device"])
    assert await counted(lab) == ["second/0", "second/3"]
    await configs.put("third")
    assert await counted(lab) == []
    await configs.delete("second")
    assert await counted(lab) == ["second/0", "second/3"]
    await assert_counted(lab, {RETRIEVER: PERSONAL})


async def test_a_row_that_becomes_visible_after_a_higher_offset_is_counted(
    lab: Lab, log: StoredLog, configs: Configurations
) -> None:
    """As while a worker retries the insert of a part of its group, or where a cluster's node lags."""
    await configs.put()
    late, first, second = log.row(day=1), log.row(day=1, execution_id="e2"), log.row(day=2)
    await log.store(first, second)
    await counted(lab)
    await log.store(late)
    assert await counted(lab) == [f"{RETRIEVER}/1"]
    await assert_counted(lab, {RETRIEVER: PERSONAL})


async def test_new_partitions_and_topics_are_found(lab: Lab, log: StoredLog, configs: Configurations) -> None:
    """Offsets of a new partition begin at 0, below all known ones."""
    await configs.put()
    few = lab.settings.model_copy(update={"batch_rows": 1})
    await log.store(*(log.row(f"doc-{number}", partition=number % 2) for number in range(20)))
    await count_once(few)
    await lab.database.command("INSERT INTO topics (topic, partitions) VALUES ('t', 3), ('u', 1)")
    await log.store(log.row(day=1, partition=2))
    await log.store({**log.row(day=2, partition=3), "_topic": "u", "_partition": 0})
    assert [str(day) for day in (await count_once(few))[NAMESPACE]] == [
        f"{RETRIEVER}/2026-02-02",
        f"{RETRIEVER}/2026-02-03",
    ]


async def test_erasing_a_user_leaves_the_counts_of_a_log_without_the_user(
    lab: Lab, log: StoredLog, configs: Configurations
) -> None:
    """Row by row, so every posterior has equal bits; and no row names the user once superseded counts are deleted."""
    await configs.put(demographic_features=["INPUT.device"])
    rows = [
        log.row(
            f"doc-{number % 3}",
            ["impression", "click", "skip"][number % 3],
            day=number % 4,
            execution_id=f"e{number % 5}",
            user_id=["ann", "bob", None][number % 3],
            metadata={"device": ["ios", "web"][number % 2]},
        )
        for number in range(60)
    ]
    with_ann, others = (
        [row for row in rows if row["user_id"] == "ann"],
        [row for row in rows if row["user_id"] != "ann"],
    )
    await log.store(*others)
    await counted(lab)
    without, config = await rows_in_force(lab.database), LearningConfig(reward_map={"click": 0.3, "skip": -0.7})
    expected = posterior(
        (await read_counts(lab.database, NAMESPACE, RETRIEVER, [GLOBAL]))[GLOBAL], config, DAY_NUMBER + 9
    )

    await log.store(*with_ann)
    await counted(lab)
    assert await rows_in_force(lab.database) != without
    await delete(lab, *with_ann)
    assert len(await counted(lab)) == 4

    assert await rows_in_force(lab.database) == without
    found = await read_counts(lab.database, NAMESPACE, RETRIEVER, [GLOBAL, ContextKey("personal", "ann")])
    assert posterior(found.pop(GLOBAL), config, DAY_NUMBER + 9) == expected
    assert found == {}
    assert await lab.rows("SELECT count() > 0 FROM learning_counts WHERE context = 'ann'") == [(1,)]
    assert await delete_superseded(lab.settings, lab.database) == 0, "statements may still read them"
    assert await delete_superseded(lab.settings, lab.database, kept_s=0) > 0
    assert await lab.rows("SELECT count() > 0 FROM learning_counts WHERE context = 'ann'") == [(0,)]
    assert await rows_in_force(lab.database) == without


@pytest.mark.parametrize("failpoint", ["looked", "inserted", "published", "counted"])
async def test_a_killed_count_changes_nothing(
    lab: Lab, log: StoredLog, configs: Configurations, failpoint: str
) -> None:
    await configs.put()
    first = log.row()
    await log.store(first, log.row(day=1))
    await counted(lab)
    await log.store(log.row("doc-2", "click"), log.row("doc-2", day=1))
    await delete(lab, first)
    reached = []

    async def kill(name: str) -> None:
        reached.append(name)
        if name == failpoint:
            raise Crashed

    with pytest.raises(Crashed):
        await count_once(lab.settings, kill)
    assert reached.count(failpoint) == 1
    assert await counted(lab) == [f"{RETRIEVER}/0", f"{RETRIEVER}/1"]
    await assert_counted(lab, {RETRIEVER: PERSONAL})


@pytest.mark.parametrize("failpoint", ["looked", "inserted", "published", "counted"])
async def test_a_paused_leader_changes_nothing_when_it_continues(
    lab: Lab, log: StoredLog, configs: Configurations, failpoint: str
) -> None:
    """Another process counts newer events, a deletion and another configuration meanwhile."""
    await configs.put(demographic_features=["INPUT.device"])
    first = log.row(user_id="ann", metadata={"device": "ios"})
    await log.store(first, log.row(day=1))
    resumed, paused = asyncio.Event(), asyncio.Event()

    async def pause(name: str) -> None:
        if name == failpoint and not paused.is_set():
            paused.set()
            await resumed.wait()

    stale = asyncio.create_task(count_once(lab.settings, pause))
    await paused.wait()
    await log.store(log.row("doc-2"), log.row("doc-2", day=2))
    await delete(lab, first)
    await configs.put(context_features=[])
    assert len(await counted(lab)) == 3
    resumed.set()
    await stale

    await counted(lab)
    await assert_counted(lab, {RETRIEVER: CountShape(False, ())})


async def test_a_long_backlog_is_counted_in_the_order_of_days_and_resumed(
    lab: Lab, log: StoredLog, configs: Configurations
) -> None:
    await configs.put()
    await log.store(*(log.row(day=day) for day in range(9)))
    short = lab.settings.model_copy(update={"aggregates_days_per_round": 2})
    seen: list[str] = []

    async def kill(name: str) -> None:
        seen.append(name)
        if seen.count("published") == 5:
            raise Crashed

    with pytest.raises(Crashed):
        await count_once(short, kill)
    status = await count_status(lab.settings, lab.database, NAMESPACE)
    assert status.as_of is None
    assert [(each.days, each.pending) for each in status.retrievers] == [(5, 5)]
    await log.store(log.row("doc-2", day=1))
    found = (await count_once(short))[NAMESPACE]
    assert [day.day - DAY_NUMBER for day in found] == [4, 5, 1, 6, 7, 8]
    status = await count_status(lab.settings, lab.database, NAMESPACE)
    assert status.as_of is not None
    assert [(each.days, each.pending, each.results) for each in status.retrievers] == [(9, 0, 10)]
    await assert_counted(lab, {RETRIEVER: PERSONAL})


async def test_a_day_that_needs_too_much_memory_does_not_stop_the_others(
    lab: Lab,
    log: StoredLog,
    configs: Configurations,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await configs.put()
    await log.store(log.row(), log.row(day=1))
    await lab.database.command(
        """INSERT INTO interactions (namespace, interaction_id, feature_id, interaction_type, execution_id, user_id,
        retriever_id, feature_uri, timestamp, _event_time_ms, _topic, _offset)
        SELECT 'default', concat('int_', toString(number)), randomPrintableASCII(400), ['click'], toString(number),
        randomPrintableASCII(400), 'hybrid', 'text', toDateTime64('2026-02-01 00:00:00', 3, 'UTC'), 1769904000000, 't',
        100 + number FROM numbers(20000)"""
    )
    with monkeypatch.context() as patched:
        patched.setattr(aggregates, "report_limits", lambda _settings: {"max_memory_usage": 16_000_000})
        assert await counted(lab) == [f"{RETRIEVER}/1"]
    assert "2026-02-01 of namespace default is not counted" in caplog.text
    assert "TALLY_REPORT_MEMORY_BYTES" in caplog.text
    assert await counted(lab) == [f"{RETRIEVER}/0"]
    assert await differences(lab.settings, lab.database) == []


async def test_counts_that_are_summed_on_insert_are_noticed(lab: Lab, log: StoredLog, configs: Configurations) -> None:
    """The negative control. A click of a result that is counted already makes it a result of its own."""
    await configs.put()
    await log.store(log.row())
    async with summing_counter(lab.settings) as counter:
        await count_all(counter)
        assert await differences(lab.settings, lab.database) == []
        await log.store(log.row(kind="click", second=1))
        await count_all(counter)
    assert await differences(lab.settings, lab.database) == [f"{NAMESPACE}/{RETRIEVER}/2026-02-01"]
    assert await counted(lab) == []


async def test_uncounted_events_are_no_difference(lab: Lab, log: StoredLog, configs: Configurations) -> None:
    await configs.put()
    await log.store(log.row())
    await counted(lab)
    await log.store(log.row("doc-2"))
    found = await check_counts(lab.settings, lab.database, NAMESPACE)
    assert (found.checked, found.differing, len(found.waiting)) == (1, (), 1)


async def test_type_sets_of_the_statement_and_of_python_are_equal(lab: Lab) -> None:
    random = Random(7)
    sets = [[name] for name in INTERACTION_TYPES]
    sets += [random.choices(INTERACTION_TYPES, k=random.randint(0, 20)) for _ in range(200)]
    found = await lab.rows(
        f"SELECT {TYPE_SET_SQL} FROM (SELECT arrayJoin(arrayZip(range(length(s)), s)) AS x, x.2 AS interaction_type "
        "FROM (SELECT {sets:Array(Array(String))} AS s)) ORDER BY x.1",
        sets=sets,
    )
    assert [value for (value,) in found] == [type_set(each) for each in sets]
