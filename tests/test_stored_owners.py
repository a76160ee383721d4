"""Lookups of stored owners: a few queries for a batch, however many namespaces it has."""

import math
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.claims.stored_owners import EVENTS_PER_LOOKUP, TEXT_BYTES_PER_LOOKUP, StoredOwners, lookup_groups
from consumers.events import Event
from tests.hostile.raw_producer import RawProducer, RawRecord, batch_of
from tests.lab import Lab, as_json, execution_on

NAMESPACES = 500
EVENT = Event(0, 0, 0, 0, "", "", False, False, None, None, "", None, None, None)
TEXTS = st.one_of(st.text(max_size=3), st.text("\0é\U0001f600", min_size=100, max_size=128))


@pytest.mark.parametrize("occupied", [False, True])
async def test_a_namespace_for_each_record_costs_a_few_lookups(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, *, occupied: bool
) -> None:
    """A query for each of 8,192 namespaces would delay every other tenant for minutes."""
    asked = Counter[str]()
    ask = StoredOwners._rows

    async def rows(owners: StoredOwners, what: str, *arguments: Any, **more: Any) -> Any:
        asked[what] += 1
        return await ask(owners, what, *arguments, **more)

    monkeypatch.setattr(StoredOwners, "_rows", rows)
    records = []
    for number in range(NAMESPACES):
        namespace = f"n{number}"
        value = as_json(execution=execution_on(1, "e", namespace=namespace))
        records.append(RawRecord(value, None, [(b"tally-namespace", namespace.encode())]))
    async with RawProducer(lab.settings.kafka) as producer:
        await producer.send(lab.settings.topic, 0, batch_of(records))
        if occupied:
            await lab.drain()
            await producer.send(lab.settings.topic, 0, batch_of(records))
    counts = await lab.drain()
    assert counts.moved == NAMESPACES
    assert await lab.count("interactions") == NAMESPACES
    assert counts.duplicates == (NAMESPACES if occupied else 0)
    assert asked.total() <= 3 * 2 * (1 + occupied), asked


@given(st.lists(st.tuples(st.integers(0, 2), TEXTS, TEXTS, TEXTS), max_size=400))
def test_lookup_groups_are_complete_and_bounded(drawn: list[tuple[int, str, str, str]]) -> None:
    events = [
        EVENT._replace(
            partition=partition, offset=offset, namespace=name, execution_id=execution, idempotency_key=token
        )
        for offset, (partition, name, execution, token) in enumerate(drawn)
    ]
    groups = list(lookup_groups(events))
    assert sorted(event.offset for group in groups for event in group) == list(range(len(events)))
    for group in groups:
        assert len({event.partition for event in group}) == 1
        assert 1 <= len(group) <= EVENTS_PER_LOOKUP
        for texts in zip(*((each.namespace, each.execution_id, each.idempotency_key) for each in group), strict=True):
            assert sum(4 * len((text or "").encode()) for text in texts) <= TEXT_BYTES_PER_LOOKUP
    fewest = math.ceil(len(events) / EVENTS_PER_LOOKUP)
    assert len(groups) >= fewest
