"""Counts of contexts: the generation in force of each day, and nothing else."""

from learning.estimators.posterior import ResultCount
from learning.weights.counts import GLOBAL, ContextKey, read_counts
from tests.lab import Lab

USER = ContextKey("personal", "ann")


async def test_only_the_generation_in_force_counts(lab: Lab) -> None:
    rows = ", ".join(
        f"('default', 'r', '{level}', '{context}', toDate({day}), {generation}, 'text', [1, 3], [1, 2], {results})"
        for level, context, day, generation, results in (
            ("personal", "ann", 20_000, 5, 7),
            ("personal", "ann", 20_000, 6, 8),
            ("personal", "ann", 20_001, 5, 9),
            ("personal", "bob", 20_001, 5, 10),
            ("global", "", 20_001, 7, 11),
        )
    )
    await lab.database.command(f"INSERT INTO learning_counts VALUES {rows}")
    days = "('default', 'r', toDate(20000), 6), ('default', 'r', toDate(20000), 5), ('default', 'r', toDate(20001), 5)"
    await lab.database.command(f"INSERT INTO learning_days VALUES {days}")

    found = await read_counts(lab.database, "default", "r", [USER, GLOBAL])

    assert found == {
        USER: [ResultCount(20_000, "text", (1, 3), (1, 2), 8), ResultCount(20_001, "text", (1, 3), (1, 2), 9)]
    }
    assert await read_counts(lab.database, "default", "r", [USER], last_day=20_000) == {
        USER: [ResultCount(20_000, "text", (1, 3), (1, 2), 8)]
    }
