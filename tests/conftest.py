"""The stack that the tests run on: real Kafka, Valkey and ClickHouse, started once; each test has a topic, a
consumer group, a key prefix and a database of its own."""

import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from deploy.embedded.stack import Stack
from runtime import kafka
from runtime.clickhouse import connect
from runtime.migrate import migrate
from runtime.redis import Redis, connect_redis
from runtime.settings import Settings
from tests.claims_lab import W
from tests.lab import Lab

# No deadline: the machine is noisy, and how long an example takes is not what these tests are about.
hypothesis_settings.register_profile(
    "everyday", deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
hypothesis_settings.load_profile("everyday")


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One embedded stack for the whole run."""
    with Stack(Settings(data_dir=tmp_path_factory.mktemp("stack"))) as running:
        yield running


@pytest.fixture
def settings(stack: Stack, tmp_path: Path) -> Settings:
    """Settings of this test alone. Nothing is created yet."""
    name = f"t{uuid.uuid4().hex[:12]}"
    own = {"data_dir": tmp_path, "topic": name, "group": name, "database": name, "key_prefix": name, "partitions": 4}
    return stack.settings().model_copy(update={**own, "session_timeout_ms": 3_000, "batch_age_ms": 50})


@pytest.fixture
async def lab(settings: Settings) -> AsyncIterator[Lab]:
    """This test's topic and tables, and ways to put things in and look at what came of it."""
    await kafka.create_topics(settings)
    await migrate(settings)
    async with AsyncExitStack() as opened:
        database = await opened.enter_async_context(connect(settings))
        raw = await opened.enter_async_context(kafka.producer(settings, letters=True))
        yield Lab(settings, database, raw)
    async with connect(settings, database="default") as server:
        await server.command(f"DROP DATABASE {settings.database}")


@pytest.fixture
def narrow(settings: Settings) -> Settings:
    """Settings with a window of a second."""
    return settings.model_copy(update={"dedup_window_ms": W, "clock_skew_ms": 0})


@pytest.fixture
async def redis(narrow: Settings) -> AsyncIterator[Redis]:
    """A connection to Redis."""
    async with connect_redis(narrow) as connected:
        yield connected
