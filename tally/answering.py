"""Checks that stores answer, before a query would wait for one that hangs."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from runtime import clickhouse, kafka
from runtime.errors import TallyError, Unavailable
from runtime.redis import connect_redis
from runtime.settings import Settings
from runtime.tasks import gather_or_cancel

Answer = TypeVar("Answer")


async def _ask_clickhouse(settings: Settings) -> None:
    async with clickhouse.connect(settings):
        pass


async def _ask_redis(settings: Settings) -> None:
    async with connect_redis(settings):
        pass


_ASK: Mapping[str, tuple[str, Callable[[Settings], Awaitable[None]]]] = {
    "kafka": ("Kafka (TALLY_KAFKA)", kafka.ping),
    "redis": ("Redis (TALLY_REDIS)", _ask_redis),
    "clickhouse": ("ClickHouse (TALLY_CLICKHOUSE)", _ask_clickhouse),
}


def configured_stores(settings: Settings) -> list[str]:
    """Return the stores whose address is set."""
    return [store for store in _ASK if getattr(settings, store)]


async def faults_of(settings: Settings, *stores: str) -> dict[str, TallyError]:
    """Return the errors of these stores within `TALLY_CONNECT_TIMEOUT_MS`. All are asked at once."""
    faults = await gather_or_cancel(_fault_of(settings, store) for store in stores)
    return {store: fault for store, fault in zip(stores, faults, strict=True) if fault is not None}


async def check_stores(settings: Settings, *stores: str) -> None:
    """Raise the first error that waiting does not repair, else Unavailable with the errors of all stores."""
    faults = (await faults_of(settings, *stores)).values()
    for fault in faults:
        if not isinstance(fault, Unavailable):
            raise fault
    if faults:
        raise Unavailable("; ".join(map(str, faults)))


def asked(settings: Settings, stores: Sequence[str], ask: Callable[[], Awaitable[Answer]]) -> Answer:
    """Run `ask`, which needs these stores, and return its answer. Raises the errors of `check_stores` first."""

    async def run() -> Answer:
        await check_stores(settings, *stores)
        return await ask()

    return asyncio.run(run())


def queried(
    settings: Settings, ask: Callable[[clickhouse.ClickHouse], Awaitable[Answer]], *, others: Sequence[str] = ()
) -> Answer:
    """Run `ask` with a connection to ClickHouse, and return its answer. It needs the `others` too: see `asked`."""

    async def run() -> Answer:
        async with clickhouse.connect(settings) as database:
            return await ask(database)

    return asked(settings, [*others, "clickhouse"], run)


async def _fault_of(settings: Settings, store: str) -> TallyError | None:
    name, ask = _ASK[store]
    patience_ms = settings.connect_timeout_ms
    # The query times out as early: a program does not end before its threads.
    hasty = settings.model_copy(update={"query_timeout_ms": max(1_000, patience_ms)})
    try:
        async with asyncio.timeout(patience_ms / 1000):
            await ask(hasty)
    except TimeoutError:
        return Unavailable(f"{name} does not answer within {patience_ms / 1000:g} s (TALLY_CONNECT_TIMEOUT_MS)")
    except TallyError as fault:
        return fault
    return None
