"""States of namespaces: how long they are kept, and who waits for them."""

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest

from readers import namespace_states
from readers.namespace_states import NamespaceStates
from readers.progress import ConsumerProgress
from runtime.clickhouse import ClickHouse
from runtime.http.in_flight import InFlightLimit
from tests.lab import Lab


@pytest.mark.parametrize(("pause_s", "baselines"), [(400, 1), (1_300, 2)])
async def test_baselines_that_take_long_are_computed_less_often(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, pause_s: float, baselines: int
) -> None:
    """A baseline that takes a minute is kept for twenty; states that take two seconds, for forty."""
    clock, seconds = [0.0], {True: 60.0, False: 1.0}
    statements: list[bool] = []

    async def rows(_database: ClickHouse, sql: str, *_arguments: Any, **_options: Any) -> list[Any]:
        statements.append(is_baseline := " OR " in sql)
        clock[0] += seconds[is_baseline]
        return []

    monkeypatch.setattr(ClickHouse, "rows", rows)
    monkeypatch.setattr(namespace_states, "time", SimpleNamespace(monotonic=lambda: clock[0], time=time.time))
    limit = InFlightLimit(1, "requests", "TALLY_LISTS_IN_FLIGHT")
    found = NamespaceStates(lab.settings, lab.database, ConsumerProgress(lab.settings), limit)
    await found.of(["shop"])
    clock[0] += pause_s
    await found.of(["shop"])
    assert sum(statements) == baselines
    assert len(statements) - sum(statements) == 4, "of the last window, and of the last stored event"


async def test_current_states_need_not_wait_for_those_of_other_namespaces(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first caller of a namespace waits for its state; a viewer of others, whose states are kept, does not."""
    is_free = asyncio.Event()
    is_free.set()

    async def rows(*_arguments: Any, **_options: Any) -> list[Any]:
        await is_free.wait()
        return []

    monkeypatch.setattr(ClickHouse, "rows", rows)
    limit = InFlightLimit(2, "requests", "TALLY_LISTS_IN_FLIGHT")
    found = NamespaceStates(lab.settings, lab.database, ConsumerProgress(lab.settings), limit)
    await found.of(["shop"])
    is_free.clear()
    other = asyncio.create_task(found.of(["other"]))
    await asyncio.sleep(0)
    async with asyncio.timeout(1):
        assert [each["namespace"] for each in (await found.of(["shop"]))["namespaces"]] == ["shop"]
    is_free.set()
    assert [each["namespace"] for each in (await other)["namespaces"]] == ["other"]
