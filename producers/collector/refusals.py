"""Counts of accepted and refused events by namespace, added to Redis every second.

A refused event never reaches Kafka, so no outcome tells of it. Counting is best effort: no request waits for it or
fails from it, and what Redis does not take within TALLY_REDIS_PATIENCE_MS is lost.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache, partial
from types import TracebackType
from typing import Literal

from prometheus_client import Counter
from starlette.types import Scope

from runtime.errors import reason_of
from runtime.http.access import CURRENT_KEY
from runtime.http.best_effort import BestEffortRedis
from runtime.http.errors import ApiError, truncate
from runtime.http.middleware import CALLER
from runtime.metrics import ACCEPTED, REFUSED
from runtime.redis import Redis
from runtime.refusals import MAX_GROUPS, MinuteCounts, NamespaceMinute, RefusalGroup, RefusalTotal, add_counts
from runtime.settings import Settings
from runtime.tasks import running
from schemas.rejection import Rejection

ADD_EVERY_S = 1.0
MAX_FIELD_CHARACTERS = 100
MAX_SHOWN_CHARACTERS = 300
"""Largest message of a group."""
_SERVER_ERRORS = 500

Endpoint = Literal["create", "batch", "beacon"]

_KINDS = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    408: "body_too_slow",
    413: "body_too_large",
    415: "unsupported_encoding",
    429: "too_many_requests",
}
"""Reasons of requests that were refused before their events were read, by status."""

log = logging.getLogger("tally.api")


class RefusalCounter:
    """Counts of one process since they were last added to Redis."""

    def __init__(self, settings: Settings, redis: BestEffortRedis) -> None:
        self._key_prefix = settings.key_prefix
        self._most_namespaces = settings.refusal_namespaces
        self._redis = redis if settings.redis.get_secret_value() else None
        self._counts: dict[NamespaceMinute, MinuteCounts] = {}
        self._hour = 0
        self._namespaces: set[str] = set()
        """Namespaces that were counted in this hour."""

    @asynccontextmanager
    async def added_to_redis(self) -> AsyncIterator[None]:
        """Add counts to Redis until the block ends, and once more at its end."""
        async with running(self._add_periodically(), "adding counts of refused events to Redis"):
            yield
        await self._add()

    async def _add_periodically(self) -> None:
        while True:
            await asyncio.sleep(ADD_EVERY_S)
            try:
                await self._add()
            except Exception as error:  # any error: without this loop counts would fill the memory
                log.warning("failed to add counts of refused events to Redis: %s", reason_of(error))

    async def _add(self) -> None:
        counts, self._counts = self._counts, {}
        if counts and self._redis is not None:
            await self._redis.ask("refusals", partial(self._add_to, counts))

    async def _add_to(self, counts: dict[NamespaceMinute, MinuteCounts], redis: Redis) -> bool:
        await add_counts(redis, self._key_prefix, counts)
        return True

    def count_accepted(self, endpoint: Endpoint, namespace: str, count: int) -> None:
        """Count events that Kafka has acknowledged."""
        _accepted_of(endpoint).inc(count)
        now_s = time.time()
        if (minute := self._minute(namespace, now_s)) is not None:
            minute.add_accepted(CURRENT_KEY.get(), count, int(now_s * 1000))

    def count_event(self, endpoint: Endpoint, namespace: str, rejection: Rejection) -> None:
        """Count an event that the validator refuses. `rejection` is the first one."""
        REFUSED.labels(endpoint, rejection.reason).inc()
        self.count_refused(endpoint, namespace, rejection.reason, rejection.field, rejection.message)

    def count_request(self, endpoint: Endpoint, namespace: str, error: ApiError) -> None:
        """Count a request that is refused before its events are known, as one event."""
        if problems := error.details.get("validation_errors"):
            first = problems[0]
            field = ".".join(map(str, first["location"][1:]))
            self.count_refused(endpoint, namespace, first["type"], field, first["message"])
            return
        reason = error.code or _KINDS.get(error.status, f"status_{error.status}")
        # What follows a colon names other namespaces of the key, or changes with each request.
        self.count_refused(endpoint, namespace, reason, "", error.message.partition(":")[0])

    def count_refused(self, endpoint: Endpoint, namespace: str, reason: str, field: str, message: str) -> None:
        """Count a refused event."""
        now_s = time.time()
        if (minute := self._minute(namespace, now_s)) is None:
            return
        group = RefusalGroup(endpoint, CURRENT_KEY.get(), reason, truncate(field, MAX_FIELD_CHARACTERS))
        if group not in minute.groups and len(minute.groups) >= MAX_GROUPS:
            group = group.other
        now_ms = int(now_s * 1000)
        total = RefusalTotal(1, now_ms, now_ms, truncate(message, MAX_SHOWN_CHARACTERS))
        if group in minute.groups:
            minute.groups[group].add(total)
        else:
            minute.groups[group] = total

    def requests(self, endpoint: Endpoint, scope: Scope) -> "RefusedRequests":
        """Return a block that counts the request when it is refused in the block."""
        return RefusedRequests(self, endpoint, scope)

    def _minute(self, namespace: str, now_s: float) -> MinuteCounts | None:
        """Return the counts of this minute; None for a namespace beyond the maximum."""
        place = NamespaceMinute(namespace, int(now_s // 60))
        found = self._counts.get(place)
        if found is None and self._is_counted(place):
            found = self._counts[place] = MinuteCounts()
        return found

    def _is_counted(self, place: NamespaceMinute) -> bool:
        if place.minute // 60 != self._hour:
            self._hour = place.minute // 60
            self._namespaces.clear()
        if place.namespace not in self._namespaces and len(self._namespaces) >= self._most_namespaces:
            return False
        self._namespaces.add(place.namespace)
        return True


@cache
def _accepted_of(endpoint: Endpoint) -> Counter:
    """Return the counter of an endpoint. Looking a label up in the library takes longer than all counting here."""
    return ACCEPTED.labels(endpoint)


class RefusedRequests:
    """Block that counts a request when it ends with an error of the client, in the namespace of the request's key."""

    __slots__ = ("_counter", "_endpoint", "_scope")

    def __init__(self, counter: RefusalCounter, endpoint: Endpoint, scope: Scope) -> None:
        self._counter = counter
        self._endpoint = endpoint
        self._scope = scope

    def __enter__(self) -> None:
        """Begin the block."""

    def __exit__(self, _kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Count an error. It is raised nevertheless."""
        if not isinstance(error, ApiError) or error.status >= _SERVER_ERRORS:
            return
        caller = self._scope.get(CALLER)
        if namespace := caller.namespace if caller else error.namespace:
            self._counter.count_request(self._endpoint, namespace, error)
