"""The demo of `tally up`: real data in a namespace of its own, a backfill once, and live traffic."""

import asyncio
import re

import pytest

from tally import demo
from tally.demo import OPEN_BANDIT, Demo, with_demo_namespace
from tests.http_lab import consuming, with_key
from tests.lab import Lab


async def test_the_backfill_is_made_once(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "BACKFILL_RATE", 0.02)
    said: list[str] = []
    async with consuming(lab.settings):
        for _ in range(2):
            await Demo(lab.settings, lab.database, asyncio.Event(), said.append, 1).run("http://api", 100, 1)
    assert len([line for line in said if line.startswith("simulated 1 day, ")]) == 1
    assert len([line for line in said if re.match(r"simulated \d+ events in 1 s: \d+ stored, .* 0 pending", line)]) == 2
    assert [line for line in said if line.startswith("curl ") and f"'X-Namespace: {OPEN_BANDIT}'" in line]
    by_namespace = dict(
        await lab.rows(
            "SELECT namespace, countIf(startsWith(execution_id, 'sim-')) FROM interactions GROUP BY namespace"
        )
    )
    assert by_namespace.pop(OPEN_BANDIT) == 0
    assert by_namespace.pop(lab.settings.namespace) > 1_000
    assert by_namespace == {}


def test_the_key_of_the_demo_reads_the_imported_data_unless_its_namespaces_are_set(lab: Lab) -> None:
    assert with_demo_namespace(lab.settings).api_namespaces == ("default", OPEN_BANDIT)
    chosen = with_key(lab.settings, api_namespaces=("shop",))
    assert with_demo_namespace(chosen).api_namespaces == ("shop",)
