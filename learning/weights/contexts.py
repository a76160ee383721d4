"""Posteriors of contexts in memory, read from the counts on demand, and again once a count of the retriever is new."""

import asyncio
import logging
from collections import OrderedDict, defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import msgspec

from learning.estimators.posterior import Posterior, posterior_of
from learning.weights.counts import GLOBAL, ContextKey, read_sums
from learning.weights.decisions import main_features
from runtime.clickhouse import ClickHouse
from runtime.errors import TallyError
from runtime.learning_configs import ConfigInForce, LearningConfigs, RetrieverKey
from runtime.metrics import WEIGHT_CONTEXTS, WEIGHT_MISSES
from runtime.rounds import Rounds
from runtime.settings import Settings
from runtime.tasks import gather_or_cancel, running
from schemas.tables import LEARNING_DAYS

CONTEXTS_PER_QUERY = 128
QUERY_BYTES = 8 * 1024
"""Maximum bytes of the contexts of one query, which are in its URL, and there six times as long at most."""

# The generation of a day only grows, so the sum over the days changes with each count.
_GENERATIONS = f"SELECT namespace, retriever_id, sum(generation) FROM {LEARNING_DAYS} FINAL GROUP BY ALL"
_read_generations = msgspec.json.Decoder(tuple[str, str, int]).decode_lines

log = logging.getLogger("tally.learning")

_Key = tuple[RetrieverKey, ContextKey]
_State = tuple[int, int, int]
"""Version of the configuration, sum of the generations in force as known before the counts are read, and day."""


class _Entry(NamedTuple):
    state: _State
    posterior: Posterior


@dataclass(slots=True, eq=False)
class _Load:
    """Context whose counts are to be read."""

    context: ContextKey
    held: ConfigInForce
    state: _State
    today: int
    future: "asyncio.Future[object]"


class ContextPosteriors:
    """Posteriors of at most TALLY_WEIGHT_CONTEXTS contexts, those used least recently dropped first.

    Requests that miss at the same time share one query for each retriever. Contexts without counts are kept, too.
    """

    def __init__(self, settings: Settings, database: ClickHouse, configs: LearningConfigs) -> None:
        self._most = settings.weight_contexts
        self._pause_s = settings.weights_refresh_ms / 1000
        self._database = database
        self._configs = configs
        self._generations: Mapping[RetrieverKey, int] = {}
        self._entries: OrderedDict[_Key, _Entry] = OrderedDict()
        self._loads: dict[_Key, _Load] = {}
        self._rounds: dict[RetrieverKey, Rounds[_Load]] = {}
        self._is_following = True

    @asynccontextmanager
    async def following(self) -> AsyncIterator["ContextPosteriors"]:
        """Look for new counts every TALLY_WEIGHTS_REFRESH_MS until the block ends."""
        try:
            async with running(self._refresh_periodically(), "looking for new counts of learned weights"):
                yield self
        finally:
            for rounds in self._rounds.values():
                await rounds.close()

    async def posteriors(
        self, retriever: RetrieverKey, held: ConfigInForce, contexts: Sequence[ContextKey], today: int
    ) -> list[Posterior]:
        """Return the posterior of each context on a day (days since 1970-01-01, UTC). Raises Unavailable."""
        state = held.version, self._generations.get(retriever, 0), today
        found: list[Posterior | asyncio.Future[object]] = []
        for context in contexts:
            key = retriever, context
            entry = self._entries.get(key)
            if entry is not None and entry.state == state:
                self._entries.move_to_end(key)
                found.append(entry.posterior)
            else:
                found.append(self._load(key, held, state).future)
        # Shielded: other requests wait for the same loads.
        return [each if isinstance(each, Posterior) else _posterior(await asyncio.shield(each)) for each in found]

    def last_features(self, retriever: RetrieverKey) -> tuple[str, ...]:
        """Return the features of the last posterior of all users that was computed, without reading anything."""
        entry = self._entries.get((retriever, GLOBAL))
        return main_features(entry.posterior) if entry else ()

    def _load(self, key: _Key, held: ConfigInForce, state: _State) -> _Load:
        load = self._loads.get(key)
        if load is not None and load.state == state:
            return load
        retriever, context = key
        load = self._loads[key] = _Load(context, held, state, state[-1], asyncio.get_running_loop().create_future())
        WEIGHT_MISSES.inc()
        if retriever not in self._rounds:
            serve = partial(self._serve, retriever)
            self._rounds[retriever] = Rounds(serve, "reading counts", max_items=CONTEXTS_PER_QUERY)
        self._rounds[retriever].add(load)
        return load

    async def _serve(self, retriever: RetrieverKey, loads: list[_Load]) -> None:
        """Read the counts of contexts: one query for each state of the configuration and size, nearly always one."""
        same: dict[_State, list[_Load]] = defaultdict(list)
        for load in loads:
            same[load.state].append(load)
        try:
            await gather_or_cancel(self._read(retriever, part) for each in same.values() for part in _parts(each))
        finally:
            for load in loads:
                if self._loads.get((retriever, load.context)) is load:
                    del self._loads[retriever, load.context]

    async def _read(self, retriever: RetrieverKey, loads: list[_Load]) -> None:
        config = loads[0].held.config
        wanted = [load.context for load in loads]
        found = await read_sums(self._database, *retriever, wanted, config.rewards.in_micros())
        for load in loads:
            posterior = posterior_of(found[load.context], config, load.today)
            self._keep((retriever, load.context), _Entry(load.state, posterior))
            load.future.set_result(posterior)

    def _keep(self, key: _Key, entry: _Entry) -> None:
        self._entries[key] = entry
        self._entries.move_to_end(key)
        if len(self._entries) > self._most:
            self._entries.popitem(last=False)
        WEIGHT_CONTEXTS.set(len(self._entries))

    async def _refresh_periodically(self) -> None:
        while True:
            await self._refresh()
            await asyncio.sleep(self._pause_s)

    async def _refresh(self) -> None:
        """Read which counts are in force. Known ones stay in use while ClickHouse does not answer."""
        if not self._configs.in_force:
            return
        try:
            rows = _read_generations(await self._database.fetch(_GENERATIONS, {}))
        except TallyError as error:
            if self._is_following:
                log.warning("new counts of learned weights are not seen until ClickHouse answers: %s", error)
            self._is_following = False
            return
        self._is_following = True
        self._generations = {(namespace, retriever): total for namespace, retriever, total in rows}


def _parts(loads: Iterable[_Load]) -> Iterator[list[_Load]]:
    """Yield loads in parts of at most QUERY_BYTES, or of one load."""
    part: list[_Load] = []
    room = QUERY_BYTES
    for load in loads:
        size = len(load.context.context.encode())
        if part and size > room:
            yield part
            part, room = [], QUERY_BYTES
        part.append(load)
        room -= size
    if part:
        yield part


def _posterior(found: object) -> Posterior:
    assert isinstance(found, Posterior)  # noqa: S101  (the result of a load)
    return found
