"""Weights of a process: what a request needs is read within the time of its configuration, else static weights."""

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from learning.weights.breaker import BreakerOpen, CircuitBreakers
from learning.weights.contexts import ContextPosteriors
from learning.weights.counts import GLOBAL, ContextKey, contexts_of
from learning.weights.decisions import (
    SEED_BITS,
    Decision,
    Evidence,
    StaticReason,
    WeightRequest,
    decide,
    decide_static,
    is_rolled_out,
    main_features,
)
from learning.weights.recording import DecisionRecorder
from learning.weights.sessions import SessionReader
from runtime.clickhouse import connect
from runtime.errors import TallyError
from runtime.http.best_effort import BestEffortRedis
from runtime.learning_configs import ConfigInForce, LearningConfigs
from runtime.metrics import WEIGHT_DECISIONS
from runtime.settings import Settings

DAY_S = 86_400

log = logging.getLogger("tally.learning")


class WeightService:
    """Answers to requests for weights."""

    def __init__(
        self,
        settings: Settings,
        configs: LearningConfigs,
        contexts: ContextPosteriors,
        recorder: DecisionRecorder,
        sessions: SessionReader | None,
    ) -> None:
        self._configs = configs
        self._contexts = contexts
        self._recorder = recorder
        self._sessions = sessions
        self._breakers = CircuitBreakers(settings.breaker_open_ms / 1000)
        self._strength = settings.session_prior_strength
        self._counters: dict[tuple[str, str], Any] = {}

    async def decide(self, request: WeightRequest) -> Decision:
        """Decide which weights to serve, and record it for retrievers with a configuration. Raises NoFeatures."""
        held = self._configs.in_force.get((request.namespace, request.retriever))
        if held is None:
            reason: StaticReason = "no_config" if self._configs.is_read else "store"
            self._breakers.close((request.namespace, request.retriever))
            decision = decide_static(None, reason, request.features)
        else:
            decision = await self._decide(request, held)
            self._recorder.add(request, decision)
        self._count(decision.label)
        return decision

    async def _decide(self, request: WeightRequest, held: ConfigInForce) -> Decision:
        seed, config = int.from_bytes(os.urandom(SEED_BITS // 8)), held.config
        is_learned = is_rolled_out(request, config.rollout_pct, seed)
        if not is_learned and request.features:
            return decide_static(held, "rollout", request.features)
        retriever = request.namespace, request.retriever
        try:
            with self._breakers.attempt(retriever):
                async with asyncio.timeout(config.circuit_breaker_timeout_ms / 1000):
                    wanted = contexts_of(config, request.user_id, request.segment) if is_learned else (GLOBAL,)
                    evidence = await self._read(request, held, wanted)
        except BreakerOpen:
            return self._without_stores(request, held, "breaker")
        except TimeoutError:
            return self._without_stores(request, held, "too_late")
        except TallyError as error:
            log.warning("static weights of retriever %r are served: %s", request.retriever[:60], error)
            return self._without_stores(request, held, "store")
        if not is_learned:
            return decide_static(held, "rollout", main_features(evidence.of("global")))
        return decide(request, held, evidence, self._strength, seed)

    async def _read(self, request: WeightRequest, held: ConfigInForce, wanted: Sequence[ContextKey]) -> Evidence:
        """Read the events of the session and the posteriors of contexts. Raises Unavailable."""
        retriever, session = (request.namespace, request.retriever), None
        if self._sessions is not None and request.session_id:
            session = await self._sessions.events(*retriever, held.first_version, request.session_id)
        found = await self._contexts.posteriors(retriever, held, wanted, today())
        return Evidence({each.level: posterior for each, posterior in zip(wanted, found, strict=True)}, session)

    def _without_stores(self, request: WeightRequest, held: ConfigInForce, reason: StaticReason) -> Decision:
        features = request.features or self._contexts.last_features((request.namespace, request.retriever))
        return decide_static(held, reason, features)

    def _count(self, labels: tuple[str, str]) -> None:
        if labels not in self._counters:  # looking labels up in the library takes longer than counting
            self._counters[labels] = WEIGHT_DECISIONS.labels(*labels)
        self._counters[labels].inc()


@asynccontextmanager
async def weight_service(settings: Settings, redis: BestEffortRedis) -> AsyncIterator[WeightService]:
    """Yield the weights of this process, over a connection of their own, so that no list delays them."""
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(connect(settings, lazily=True, threads=2))
        configs = await stack.enter_async_context(LearningConfigs(settings, database).refreshed())
        contexts = await stack.enter_async_context(ContextPosteriors(settings, database, configs).following())
        recorder = await stack.enter_async_context(DecisionRecorder(settings, database).recording())
        sessions = None
        if settings.redis.get_secret_value():
            sessions = SessionReader(settings, redis, database)
            stack.push_async_callback(sessions.close)
        yield WeightService(settings, configs, contexts, recorder, sessions)


def today() -> int:
    """Return the current day in UTC as days since 1970-01-01."""
    return int(time.time()) // DAY_S
