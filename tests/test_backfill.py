"""A backfill of one tenant, on its own topic or at a bounded share of the common one, does not delay others."""

import itertools
import uuid
from collections.abc import AsyncIterator

import pytest

from producers.producer import Producer
from producers.simulation.simulator import Simulator
from readers.audit import audit
from readers.lookup import Lookups
from runtime.kafka import create_topics
from tally.feed import feed
from tally.pace import at_rate
from tests.http_lab import consuming
from tests.lab import Lab, click
from tests.waiting import eventually_async


async def test_a_backfill_on_its_own_topic_does_not_delay_live_events(lab: Lab) -> None:
    """Ten times as many events wait on the backfill topic unread; live events are stored. Then both are stored."""
    live = lab.settings
    backfill = live.model_copy(update={"topic": f"{live.topic}-backfill", "group": f"{live.group}-backfill"})
    await create_topics(backfill)
    own = Lab(backfill, lab.database, lab._raw)
    waiting = await own.emit_all(itertools.islice(iter(Simulator(51, duplicates=0)), 5_000))
    async with consuming(live):
        receipts = await lab.emit_all(itertools.islice(iter(Simulator(52, duplicates=0)), 500))

        async def is_stored() -> bool:
            return await lab.count("interactions") == 500

        await eventually_async(is_stored)
    assert (await own.drain()).stored == 5_000
    for settings, count in ((live, 500), (backfill, 5_000)):
        parts = [each async for each in audit(settings, lab.database)]
        assert all(each.balances for each in parts)
        assert sum(each.stored for each in parts) == count
    lookups = Lookups(lab.database, 10)
    for receipt in (receipts[-1], waiting[-1]):
        assert await lookups.get(live.namespace, receipt.interaction_id) is not None, "both are read from one table"


async def test_a_rate_limited_feed_sends_every_event(lab: Lab) -> None:
    events = [click(f"doc-{number}", uuid.uuid4().hex) for number in range(40)]
    async with Producer(lab.settings) as producer:
        fed = await feed(producer, at_rate(events, 1_000), namespace=lab.settings.namespace)
    assert (fed.accepted, fed.failed) == (40, [])


async def test_a_rate_limit_spreads_items_over_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now, slept = [100.0], []

    async def sleep(seconds: float) -> None:
        slept.append(round(seconds, 3))
        now[0] += seconds

    monkeypatch.setattr("tally.pace.time.monotonic", lambda: now[0])
    monkeypatch.setattr("tally.pace.asyncio.sleep", sleep)

    async def items() -> AsyncIterator[int]:
        for number in range(5):
            now[0] += 5 * (number == 3)
            yield number

    assert [item async for item in at_rate(items(), 10)] == [0, 1, 2, 3, 4]
    assert slept == [0.1, 0.1, 0.1], "what was late is not caught up with"
