"""The stack that the tests run on: real Kafka, Valkey and ClickHouse, started once; each test has a topic, a
consumer group, a key prefix and a database of its own."""

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import cast

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from deploy.embedded.stack import Stack
from runtime.clickhouse import connect
from runtime.redis import Redis, connect_redis
from runtime.settings import Settings
from tests.claims_lab import W
from tests.lab import Lab, lab_of, settings_of_its_own

# The tests start a dozen brokers, most of them for seconds: what Java's second compiler costs, it never gives back.
os.environ.setdefault("JDK_JAVA_OPTIONS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")

# No deadline: the machine is noisy, and how long an example takes is not what these tests are about.
hypothesis_settings.register_profile(
    "everyday", deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
hypothesis_settings.load_profile("everyday")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the stack and of repetitions."""
    parser.addoption("--stack", choices=("embedded", "containers"), default="embedded", help="where the stores run")
    parser.addoption("--repeat", type=int, default=1, help="run each test this many times, on one stack")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Repeat every test with `--repeat`: a race shows only in many runs."""
    times = metafunc.config.getoption("repeat")
    if times > 1:
        metafunc.fixturenames.append("repetition")
        metafunc.parametrize("repetition", range(times))


@pytest.fixture(scope="session")
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Return one stack for the whole run: embedded, or containers in its place."""
    data_dir = tmp_path_factory.mktemp("stack")
    if request.config.getoption("stack") == "containers":
        from tests.containers_lab import container_stack

        with container_stack(data_dir) as containers:
            yield cast(Stack, containers)
    else:
        with Stack(Settings(data_dir=data_dir)) as running:
            yield running


@pytest.fixture
def settings(stack: Stack, tmp_path: Path) -> Settings:
    """Settings of this test alone. Nothing is created yet."""
    return settings_of_its_own(stack, tmp_path)


@pytest.fixture
async def lab(settings: Settings) -> AsyncIterator[Lab]:
    """Return this test's topic and tables, with helpers to fill and read them."""
    async with lab_of(settings) as lab:
        yield lab
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
