"""The law of counts: after any history of events, deletions, configurations, retention and counts, they are those of a
count from scratch."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest

from consumers.retention import expire_interactions
from learning.weights.aggregates import count_once
from learning.weights.count_check import differences
from learning.weights.count_cleanup import delete_superseded
from learning.weights.count_progress import CountShape
from runtime.deletions import Deletion, Deletions
from tests.counts_lab import NAMESPACE, Configurations, Row, StoredLog, counted_from_scratch, rows_in_force
from tests.crashes import Crashed
from tests.lab import Lab

HISTORIES = int(os.environ.get("TALLY_COUNT_HISTORIES", "4"))
STEPS = 14
FAILPOINTS = ("looked", "inserted", "published", "counted")
RETRIEVERS = ("a", "b")
JANUARY, FEBRUARY = datetime(2026, 1, 30, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC)


class Paused:
    """Count that stops at a failpoint until it is resumed."""

    def __init__(self, lab: Lab, failpoint: str) -> None:
        self._failpoint = failpoint
        self._resumed, self._arrived = asyncio.Event(), asyncio.Event()
        self._task = asyncio.create_task(count_once(lab.settings, self._pause))

    async def _pause(self, name: str) -> None:
        if name == self._failpoint and not self._arrived.is_set():
            self._arrived.set()
            await self._resumed.wait()

    async def arrived(self) -> None:
        """Wait until it stops at the failpoint or has ended."""
        arrival = asyncio.create_task(self._arrived.wait())
        await asyncio.wait((arrival, self._task), return_when=asyncio.FIRST_COMPLETED)
        arrival.cancel()

    async def resume(self) -> None:
        """Let it end."""
        self._resumed.set()
        await self._task


class History:
    """Random steps of one history, on two retrievers with configurations."""

    def __init__(self, lab: Lab, seed: int) -> None:
        self.random = Random(seed)
        self.lab = lab.__class__(
            lab.settings.model_copy(update={"aggregates_days_per_round": self.random.choice((1, 3, 31))}),
            lab.database,
            lab._raw,
        )
        self.log = StoredLog(self.lab)
        self.configs = Configurations(lab.database)
        self.shapes: dict[str, CountShape] = {}
        self.kept_since = JANUARY
        self._late: list[Row] = []
        self._stored: list[Row] = []
        self._paused: list[Paused] = []

    async def run(self) -> None:
        """Run the steps, and let every paused count end."""
        await self.lab.database.command("INSERT INTO topics (topic, partitions) VALUES ('t', 2)")
        await self.configure()
        steps: list[tuple[Callable[[], Awaitable[None]], int]] = [
            (self.store, 6), (self.store_late, 2), (self.repeat, 1), (self.delete, 3), (self.configure, 1),
            (self.expire, 1), (self.count, 3), (self.kill, 2), (self.pause, 2), (self.resume, 2), (self.clean, 1),
        ]  # fmt: skip
        for _ in range(STEPS):
            (step,) = self.random.choices([step for step, _ in steps], [weight for _, weight in steps])
            await step()
        while self._paused:
            await self.resume()

    async def store(self) -> None:
        """Store events, some of an old day; keep some back, although later ones of their partition are visible."""
        rows = [self._event() for _ in range(self.random.randint(1, 8))]
        self._late += (late := [row for row in rows if self.random.random() < 0.2])
        if visible := [row for row in rows if row not in late]:
            await self._store(visible)

    async def store_late(self) -> None:
        """Store the events that were kept back."""
        late, self._late = self._late, []
        if late:
            await self._store(late)

    async def repeat(self) -> None:
        """Insert stored events again, as a worker does after a crash; one that is deleted stays deleted."""
        if self._stored:
            await self.log.store(*self.random.choices(self._stored, k=3))

    async def delete(self) -> None:
        """Delete events, and with luck all of a user; those that are not stored yet are stored and erased later."""
        user = self.random.choice(("ann", None, None))
        gone = [row for row in self.log.rows if row["user_id"] == user] if user else self.log.rows
        await self._erase(self.random.sample(gone, min(len(gone), 3)))

    async def configure(self) -> None:
        """Change or delete a configuration."""
        retriever = self.random.choice(RETRIEVERS)
        if retriever in self.shapes and self.random.random() < 0.25:
            await self.configs.delete(retriever)
            del self.shapes[retriever]
            return
        features, users = (
            self.random.choice((None, ["INPUT.device"], ["INPUT.device", "CONTEXT.shop.name"])),
            (self.random.choice(([], ["INPUT.user_id"]))),
        )
        await self.configs.put(retriever, demographic_features=features, context_features=users)
        paths = tuple(tuple(name.split(".")[1:]) for name in features or ())
        self.shapes[retriever] = CountShape(bool(users), paths)

    async def expire(self) -> None:
        """Expire the events that were appended in January, some of them before they are gone from the table."""
        now = FEBRUARY + timedelta(days=40)
        expired = await expire_interactions(self.lab.database, keep_days=30, now=now, wait=self.random.random() < 0.5)
        if expired:
            self.kept_since = FEBRUARY

    async def count(self) -> None:
        """Count; two processes at a time, or one."""
        await asyncio.gather(*(count_once(self.lab.settings) for _ in range(self.random.choice((1, 2)))))

    async def kill(self) -> None:
        """Kill a count at a failpoint."""
        failpoint, left = self.random.choice(FAILPOINTS), self.random.randint(1, 3)

        async def crash(name: str) -> None:
            nonlocal left
            left -= name == failpoint
            if left == 0:
                raise Crashed

        with suppress(Crashed):
            await count_once(self.lab.settings, crash)

    async def pause(self) -> None:
        """Begin a count that stops at a failpoint."""
        self._paused.append(Paused(self.lab, self.random.choice(FAILPOINTS)))
        await self._paused[-1].arrived()

    async def resume(self) -> None:
        """Let a paused count continue."""
        if self._paused:
            await self._paused.pop(self.random.randrange(len(self._paused))).resume()

    async def clean(self) -> None:
        """Delete superseded counts."""
        await delete_superseded(self.lab.settings, self.lab.database, kept_s=0)

    def _event(self) -> Row:
        choose = self.random.choice
        happened_day = choose((-2, -1, 0, 0, 1, 1, 1))
        appended = None if happened_day >= 0 and self.random.random() < 0.8 else FEBRUARY + timedelta(days=2)
        if happened_day < 0 and self.random.random() < 0.7:
            appended = None
        metadata: dict[str, Any] = {"device": choose(("ios", "web", "", 7)), "shop": choose(({"name": "é|x"}, "none"))}
        return self.log.row(
            choose(("doc-1", "doc-2")), choose((["impression"], ["click"], ["impression", "click"], ["skip", "skip"])),
            day=happened_day, second=self.random.randrange(86_400), partition=self.random.randrange(2),
            appended=appended, retriever_id=choose((*RETRIEVERS, "c")), execution_id=choose(("e1", "e2", "", None)),
            feature_uri=choose(("text", "image", "", None)), user_id=choose(("ann", "bob", "", None)),
            metadata=choose((None, metadata)),
        )  # fmt: skip

    async def _store(self, rows: list[Row]) -> None:
        """Insert rows, then erase the deleted ones, as workers do."""
        await self.log.store(*rows)
        self._stored += rows
        known = await Deletions(self.lab.database).among([row["interaction_id"] for row in rows])
        await Deletions(self.lab.database).erase(known)

    async def _erase(self, rows: list[Row]) -> None:
        gone = [Deletion(row["interaction_id"], NAMESPACE) for row in rows]
        for each in gone:
            await Deletions(self.lab.database).note(each)
        await Deletions(self.lab.database).erase(gone)


@pytest.mark.parametrize("seed", range(HISTORIES))
async def test_counts_are_those_of_a_count_from_scratch(lab: Lab, seed: int) -> None:
    history = History(lab, seed)
    await history.run()
    await count_once(lab.settings)
    found = await rows_in_force(lab.database)
    assert found == await counted_from_scratch(lab.database, history.shapes, history.kept_since)
    assert await differences(lab.settings, lab.database) == []
    assert await count_once(lab.settings) in ({}, {NAMESPACE: []})
