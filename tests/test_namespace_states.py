"""States of namespaces: how long they are kept, and which callers wait for them."""

import asyncio
import math
import time
from types import SimpleNamespace
from typing import Any

import pytest

from readers import namespace_states
from readers.namespace_states import NamespaceStates
from readers.progress import ConsumerProgress
from runtime.http.in_flight import InFlightLimit
from tests.lab import Lab


class Clock:
    """Clock of the module that moves with each statement of this test, not with those of others in the process."""

    def __init__(self, lab: Lab, monkeypatch: pytest.MonkeyPatch, seconds: dict[bool, float]) -> None:
        """Use the seconds that a statement takes, by whether it is one of a baseline."""
        self.now_s = 0.0
        self.statements: list[bool] = []
        select = lab.database.rows

        async def rows(sql: str, *arguments: Any, **options: Any) -> Any:
            self.statements.append(is_baseline := " OR " in sql)
            self.now_s += seconds[is_baseline]
            return await select(sql, *arguments, **options)

        monkeypatch.setattr(lab.database, "rows", rows)
        monkeypatch.setattr(namespace_states, "time", SimpleNamespace(monotonic=lambda: self.now_s, time=time.time))


def states_of(lab: Lab) -> NamespaceStates:
    limit = InFlightLimit(2, "requests", "TALLY_LISTS_IN_FLIGHT")
    return NamespaceStates(lab.settings, lab.database, ConsumerProgress(lab.settings), limit)


@pytest.mark.parametrize(("most", "is_computed"), [(1e-6, False), (math.inf, True)])
async def test_states_that_take_long_are_computed_less_often(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, most: float, is_computed: bool
) -> None:
    monkeypatch.setattr(namespace_states, "SHARED_S", 0.0)
    monkeypatch.setattr(namespace_states, "MAX_BUSY_SHARE", most)
    clock = Clock(lab, monkeypatch, {True: 0.1, False: 0.1})
    found = states_of(lab)
    await found.of(["shop"])
    before = len(clock.statements)
    await found.of(["shop"])
    assert bool(clock.statements[before:]) == is_computed


@pytest.mark.parametrize(("pause_s", "baselines"), [(400, 1), (1_300, 2)])
async def test_baselines_that_take_long_are_computed_less_often(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, pause_s: float, baselines: int
) -> None:
    """A baseline that takes a minute is kept for twenty; states that take two seconds, for forty."""
    clock = Clock(lab, monkeypatch, {True: 60.0, False: 1.0})
    found = states_of(lab)
    await found.of(["shop"])
    clock.now_s += pause_s
    await found.of(["shop"])
    assert sum(clock.statements) == baselines
    assert len(clock.statements) - sum(clock.statements) == 4, "of the last window, and of the last stored event"


async def test_states_are_two_minutes_old_at_most(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(lab, monkeypatch, {True: 1.0, False: 20.0})
    found = states_of(lab)
    await found.of(["shop"])
    for pause_s, states in ((119, 2), (2, 4)):
        clock.now_s += pause_s
        await found.of(["shop"])
        assert clock.statements.count(False) == states


async def test_a_state_that_expires_while_others_are_computed_is_answered(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    Clock(lab, monkeypatch, {True: 500.0, False: 0.01})
    found = states_of(lab)
    await found.of(["shop"])
    answer = await found.of(["shop", "other"])
    assert [each["namespace"] for each in answer["namespaces"]] == ["shop", "other"]


async def test_current_states_need_not_wait_for_those_of_other_namespaces(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first caller of a namespace waits for its state; a viewer of others, whose states are kept, does not."""
    is_free = asyncio.Event()
    is_free.set()

    select = lab.database.rows

    async def rows(sql: str, *arguments: Any, **options: Any) -> Any:
        await is_free.wait()
        return await select(sql, *arguments, **options)

    monkeypatch.setattr(lab.database, "rows", rows)
    found = states_of(lab)
    await found.of(["shop"])
    is_free.clear()
    other = asyncio.create_task(found.of(["other"]))
    await asyncio.sleep(0)
    async with asyncio.timeout(1):
        assert [each["namespace"] for each in (await found.of(["shop"]))["namespaces"]] == ["shop"]
    is_free.set()
    assert [each["namespace"] for each in (await other)["namespaces"]] == ["other"]
