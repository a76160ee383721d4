"""Weights that another configuration would have served for the decisions of the log.

The posterior of the other configuration on a day is computed from the counts of the days before: as if weights were
updated at midnight UTC. Where the other configuration differs from that of the decision only in its exploration, the
posterior is that of the decision itself, which was served.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from learning.estimators.posterior import (
    SMALLEST_EXPLORATION,
    Posterior,
    ResultCount,
    Shape,
    effective_exploration,
    posterior,
)
from learning.scope import LearningScope
from learning.weights.counts import GLOBAL, ContextKey, Level, contexts_of, read_counts
from learning.weights.tuning_config import WITHOUT_EFFECT
from learning.weights.tuning_log import LeftOut, LoggedDecision
from runtime.clickhouse import ClickHouse
from schemas.learning_config import LearningConfig

MAX_CONTEXT_CHARACTERS = 30_000
"""Largest length of the contexts whose counts are read together: ClickHouse takes 128 KiB in one parameter."""
MAX_DECISIONS = 5_000
"""Maximum decisions whose counts are read together."""
_OF_EXPLORATION = ("exploration_bonus", "exploration_decay", "exploration_floor")

CountsOf = Mapping[ContextKey, Sequence[ResultCount]]


class TargetDraw(NamedTuple):
    """Distribution from which the other configuration would have drawn the weights of a decision."""

    decision: LoggedDecision
    level: Level
    shapes: tuple[Shape, ...]
    """By feature of the decision."""
    exploration: float


class TargetDraws(NamedTuple):
    """Draws of one configuration for the decisions of a log."""

    draws: list[TargetDraw]
    left_out: Counter[LeftOut]


class _Target:
    """One configuration beside the log: posteriors are computed once for each context and day."""

    def __init__(self, config: LearningConfig, versions: Mapping[int, LearningConfig]) -> None:
        self._config = config
        self._has_same_bounds = {
            version: (each.min_weight, each.max_weight) == (config.min_weight, config.max_weight)
            for version, each in versions.items()
        }
        self._has_same_posterior = {
            version: _without_exploration(each) == _without_exploration(config) for version, each in versions.items()
        }
        self._whole: dict[int, Posterior] = {}
        self.found = TargetDraws([], Counter())

    def contexts_of(self, decision: LoggedDecision) -> Sequence[ContextKey]:
        """Return the contexts whose counts decide about this decision, from the narrowest on."""
        version = decision.version
        if not self._has_same_bounds.get(version) or self._has_same_posterior[version]:
            return ()
        return contexts_of(self._config, decision.user, decision.segment)

    def add(self, decisions: Iterable[LoggedDecision], counts: CountsOf) -> None:
        """Find the draws of decisions."""
        known: dict[tuple[ContextKey, int], Posterior] = {}
        for decision in decisions:
            drawn = self._drawn(decision, counts, known)
            if isinstance(drawn, TargetDraw):
                self.found.draws.append(drawn)
            else:
                self.found.left_out[drawn] += 1

    def _drawn(
        self, decision: LoggedDecision, counts: CountsOf, known: dict[tuple[ContextKey, int], Posterior]
    ) -> TargetDraw | LeftOut:
        config = self._config
        if not self._has_same_bounds.get(decision.version):
            return "bounds"
        level, shapes, interactions = decision.level, decision.shapes, decision.interactions
        if not self._has_same_posterior[decision.version]:
            chosen = self._chosen(decision, counts, known)
            if chosen is None:
                return "no_counts"
            level, found = chosen
            prior = Shape(config.prior_alpha, config.prior_beta)
            shapes = tuple(found.shapes.get(name, prior) for name in decision.features)
            interactions = found.interactions
        exploration = effective_exploration(config, interactions)
        if exploration < SMALLEST_EXPLORATION:
            return "target_mean"
        return TargetDraw(decision, level, shapes, exploration)

    def _chosen(
        self, decision: LoggedDecision, counts: CountsOf, known: dict[tuple[ContextKey, int], Posterior]
    ) -> tuple[Level, Posterior] | None:
        """Return level and posterior of a decision; None: static weights."""
        *narrow, _ = self.contexts_of(decision)
        for context in narrow:
            found = self._posterior(known, context, counts.get(context, ()), decision.day)
            if found.interactions >= self._config.min_interactions:
                return context.level, found
        if decision.day not in self._whole:
            self._whole[decision.day] = _before(counts.get(GLOBAL, ()), self._config, decision.day)
        found = self._whole[decision.day]
        return ("global", found) if found.shapes else None

    def _posterior(
        self,
        known: dict[tuple[ContextKey, int], Posterior],
        context: ContextKey,
        counts: Sequence[ResultCount],
        day: int,
    ) -> Posterior:
        if (context, day) not in known:
            known[context, day] = _before(counts, self._config, day)
        return known[context, day]


def _before(counts: Sequence[ResultCount], config: LearningConfig, day: int) -> Posterior:
    return posterior((each for each in counts if each.day < day), config, day)


def _without_exploration(config: LearningConfig) -> LearningConfig:
    """Return a configuration whose exploration, and names without an effect on weights, have their defaults."""
    names = (*_OF_EXPLORATION, *WITHOUT_EFFECT)
    return config.model_copy(update={name: LearningConfig.model_fields[name].default for name in names})


def _chunks(decisions: Iterable[LoggedDecision]) -> Iterator[list[LoggedDecision]]:
    """Yield decisions in chunks whose counts are read together."""
    chunk: list[LoggedDecision] = []
    texts: set[str] = set()
    characters = 0
    for decision in decisions:
        chunk.append(decision)
        new = {decision.user, decision.segment} - texts
        texts |= new
        characters += sum(map(len, new))
        if len(chunk) == MAX_DECISIONS or characters > MAX_CONTEXT_CHARACTERS:
            yield chunk
            chunk, texts, characters = [], set(), 0
    if chunk:
        yield chunk


async def target_draws(
    database: ClickHouse,
    scope: LearningScope,
    decisions: Sequence[LoggedDecision],
    configs: Sequence[LearningConfig],
    versions: Mapping[int, LearningConfig],
    progress: Callable[[int], None] = lambda _: None,
) -> list[TargetDraws]:
    """Return the draws of each configuration. `progress` receives the number of decisions done. Raises Unavailable."""
    targets = [_Target(config, versions) for config in configs]
    last_day = max((each.day for each in decisions), default=1) - 1
    named = scope.namespace, scope.retriever
    whole: CountsOf | None = None
    done = 0
    for some in _chunks(sorted(decisions, key=lambda each: each.user)):
        wanted = {key: None for target in targets for each in some for key in target.contexts_of(each)}
        if wanted and whole is None:
            whole = await read_counts(database, *named, [GLOBAL], last_day)
        wanted.pop(GLOBAL, None)
        narrow = await read_counts(database, *named, list(wanted), last_day) if wanted else {}
        counts = {**narrow, **(whole or {})}
        for target in targets:
            await asyncio.to_thread(target.add, some, counts)
        done += len(some)
        progress(done)
    return [target.found for target in targets]
