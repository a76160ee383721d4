"""Learned state of one run: counts that are killed while workers insert, and credit of interleaved results."""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from learning.interleaving.drafts import DraftRequest, RankingSpec, make_draft
from learning.interleaving.events import ExperimentScope
from learning.interleaving.results import read_result
from learning.interleaving.tokens import read_token
from learning.weights.aggregates import count_all, count_once
from learning.weights.count_check import differences
from runtime.clickhouse import ClickHouse
from runtime.errors import TallyError
from runtime.http.keys import ROOT, SCOPES, ApiKey, hash_of
from runtime.settings import Settings
from tests.counts_lab import summing_counter

EXPERIMENT = "chaos"
PAUSE_S = 0.3
KILL_SHARE = 0.1
"""Share of failpoints of a count at which it is killed."""
SUMMING = "counts-summed-on-insert"
"""Name of the control whose counts add new events to old counts."""


class _KilledError(Exception):
    pass


class LearnedState:
    """Counts and credit of one run."""

    def __init__(self, settings: Settings, through: Settings, random: Random, control: str | None) -> None:
        """`through`: settings whose connections meet the run's fault."""
        self._settings = settings
        self._through = through
        self._random = Random(random.random())
        self._is_summing = control == SUMMING
        self._stopped = asyncio.Event()

    async def keep_counting(self) -> None:
        """Count again and again until `stop_counting`, and kill some of the counts."""
        while not self._stopped.is_set():
            with suppress(TallyError, _KilledError):
                await self._count(self._through)
            await asyncio.sleep(PAUSE_S)

    def stop_counting(self) -> None:
        """End the counts."""
        self._stopped.set()

    async def _count(self, settings: Settings) -> None:
        if not self._is_summing:
            await count_once(settings, self._reached)
            return
        async with summing_counter(settings) as counter:
            await count_all(counter)

    async def _reached(self, _failpoint: str) -> None:
        if not self._stopped.is_set() and self._random.random() < KILL_SHARE:
            raise _KilledError

    async def problems(self, database: ClickHouse, *, has_tokens: bool) -> list[str]:
        """Every day whose counts differ from a count from scratch, and wrong credit of tokens."""
        await self._count(self._settings)
        found = [f"the counts of {each} differ" for each in await differences(self._settings, database)]
        return found + (await self._wrong_credit(database) if has_tokens else [])

    async def _wrong_credit(self, database: ClickHouse) -> list[str]:
        """Compare the result of the experiment with the stored events, draft by draft."""
        rows: Any = await database.rows(
            "SELECT JSONExtractString(metadata, 'interleaving') AS token FROM interactions FINAL WHERE token != '' "
            "AND has(interaction_type, 'click') ORDER BY timestamp, _topic, _partition, _offset"
        )
        if not rows:
            return []
        teams: dict[str, list[str]] = defaultdict(list)
        for (text,) in rows:
            token, _, _ = read_token(text) or (None, None, None)
            if token is None:
                return [f"the token {text[:60]!r} was changed"]
            teams[token.interleaving_id].append(token.team)
        deciding = [next((team for team in each if team != "both"), None) for each in teams.values()]
        since, until = datetime(2026, 1, 1, tzinfo=UTC), datetime.now(UTC) + timedelta(days=1)
        found = await read_result(self._settings, database, ExperimentScope("default", EXPERIMENT, since, until))
        read = (found.drafts, found.wins["a"], found.wins["b"], sum(found.counts.invalid.values()))
        expected = (len(teams), deciding.count("a"), deciding.count("b"), 0)
        return [] if read == expected else [f"credit (drafts, a, b, invalid) is {read} instead of {expected}"]


def tokens_of(settings: Settings, executions: Sequence[str], documents: Sequence[str]) -> Mapping[tuple[str, str], str]:
    """Return tokens of one draft for each execution, by execution and document."""
    key = ApiKey(ROOT, hash_of(settings.api_key.get_secret_value()), SCOPES, settings.api_namespaces)
    a, b = RankingSpec("a", [*documents]), RankingSpec("b", [*documents][::-1])
    tokens = {}
    for execution in executions:
        draft = make_draft(DraftRequest(EXPERIMENT, a, b, len(documents), execution), key, "default")
        tokens.update({(execution, each["feature_id"]): each["token"] for each in draft["results"]})
    return tokens
