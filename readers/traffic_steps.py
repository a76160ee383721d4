"""Counts of events by step of time. Steps that are over are kept for some minutes: a look reads the last ones only."""

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from readers.verdict_sql import RANGE_SETTINGS, select_verdicts
from runtime.clickhouse import BoundParameters, ClickHouse
from runtime.settings import Settings
from schemas.event_time import from_epoch_ms, to_epoch_ms
from schemas.tables import INTERACTIONS

MINUTE_MS, HOUR_MS = 60_000, 3_600_000
OVER_MS = 120_000
"""Time after its end when a step is over: the clocks of brokers and of this process may differ."""
KEPT_S = 300.0
"""Seconds for which a step that is over is kept. Deletions change its counts."""
MAX_KEPT = 20_000
MOST_AT_ONCE = {MINUTE_MS: 75, HOUR_MS: 24}
"""Steps that one statement counts, by length of a step in ms: each statement has a time limit of its own."""


class StepCounts(NamedTuple):
    """Events of a step by verdict, and the time of the newest stored one of each type in ms since 1970."""

    by_verdict: Mapping[str, int]
    last_ms: Mapping[str, int]


_Key = tuple[str, int, int]


class TrafficSteps:
    """Steps of all namespaces in one process, at most MAX_KEPT. It raises Unavailable and StatementTimeout."""

    def __init__(self, settings: Settings, database: ClickHouse) -> None:
        self._limits = {"max_execution_time": settings.list_timeout_ms / 1000, **RANGE_SETTINGS}
        self._database = database
        self._kept: dict[_Key, tuple[float, StepCounts]] = {}

    async def counts(self, namespace: str, steps: range, over_ms: int) -> Mapping[int, StepCounts]:
        """Return the counts of steps by their beginning. Steps that end by `over_ms` may be up to KEPT_S old."""
        oldest = time.monotonic() - KEPT_S
        kept = {at_ms: self._kept.get((namespace, steps.step, at_ms)) for at_ms in steps}
        found = {at_ms: each[1] for at_ms, each in kept.items() if each is not None and each[0] > oldest}
        for run in _runs([at_ms for at_ms in steps if at_ms not in found], steps.step):
            read = await self._read(namespace, run)
            found |= read
            for at_ms in run:
                if at_ms + run.step <= over_ms:
                    self._keep((namespace, run.step, at_ms), read[at_ms])
        return found

    def _keep(self, key: _Key, counts: StepCounts) -> None:
        self._kept.pop(key, None)
        self._kept[key] = time.monotonic(), counts
        while len(self._kept) > MAX_KEPT:
            del self._kept[next(iter(self._kept))]

    async def _read(self, namespace: str, steps: range) -> dict[int, StepCounts]:
        bind = BoundParameters()
        condition = (
            f"namespace = {bind.bind(namespace, 'String')} "
            f"AND timestamp >= {bind.bind(from_epoch_ms(steps.start), 'Int64')} "
            f"AND timestamp < {bind.bind(from_epoch_ms(steps.stop), 'Int64')}"
        )
        slot = f"intDiv(toUnixTimestamp64Milli(timestamp), {steps.step:d})"
        types = (
            f"SELECT {slot} AS slot, type, max(timestamp) FROM {INTERACTIONS} FINAL "
            f"ARRAY JOIN interaction_type AS type WHERE {condition} GROUP BY slot, type"
        )
        by_verdict: dict[int, dict[str, int]] = defaultdict(dict)
        for _, number, verdict, events, _ in await self._rows(select_verdicts(condition, slot), bind):
            by_verdict[number * steps.step][verdict] = int(events)
        last_ms: dict[int, dict[str, int]] = defaultdict(dict)
        for number, name, last_at in await self._rows(types, bind):
            last_ms[number * steps.step][name] = to_epoch_ms(last_at)
        return {at_ms: StepCounts(by_verdict.get(at_ms, {}), last_ms.get(at_ms, {})) for at_ms in steps}

    async def _rows(self, sql: str, bind: BoundParameters) -> Sequence[Sequence[Any]]:
        return await self._database.rows(sql, bind.values, limits=self._limits)


def _runs(wanted: Sequence[int], step_ms: int) -> Iterator[range]:
    """Split ascending beginnings of steps into ranges without gaps, of MOST_AT_ONCE steps at most."""
    begin = 0
    for at in range(1, len(wanted) + 1):
        is_end = at == len(wanted) or wanted[at] != wanted[at - 1] + step_ms
        if is_end or at - begin == MOST_AT_ONCE[step_ms]:
            yield range(wanted[begin], wanted[at - 1] + step_ms, step_ms)
            begin = at
