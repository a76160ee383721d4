"""The stack that the tests run on: real Kafka, Valkey and ClickHouse, started once; each test has a topic, a
consumer group, a key prefix and a database of its own."""

import os
import secrets
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import cast

import httpx
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from deploy.embedded.stack import Stack
from runtime import kafka
from runtime.clickhouse import ClickHouse, connect
from runtime.redis import Redis, connect_redis
from runtime.settings import Settings
from tests.claims_lab import W
from tests.lab import Lab, Tables, settings_of_its_own
from tests.published_client import import_in_parts

# The tests start a dozen brokers, most of them for seconds: Java's second compiler costs more time than it saves.
os.environ.setdefault("JDK_JAVA_OPTIONS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")

import_in_parts()

# A shell starts background jobs with SIGINT ignored, which children inherit: tests that send it would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)

# No deadline: the machine is noisy, and these tests do not check durations.
hypothesis_settings.register_profile(
    "everyday",
    deadline=None,
    max_examples=100,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
hypothesis_settings.load_profile("everyday")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the stack and of repetitions."""
    parser.addoption("--stack", choices=("embedded", "containers"), default="embedded", help="where the stores run")
    parser.addoption("--repeat", type=int, default=1, help="run each test this many times, on one stack")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Choose the seed of all examples where none is given; processes of xdist get the same."""
    if config.option.hypothesis_seed is None:
        config.option.hypothesis_seed = str(secrets.randbelow(2**32))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the option that repeats this run's examples."""
    terminalreporter.write_line(f"examples: --hypothesis-seed={config.option.hypothesis_seed}")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Repeat every test with `--repeat`: a race shows only in many runs."""
    times = metafunc.config.getoption("repeat")
    if times > 1:
        metafunc.fixturenames.append("repetition")
        metafunc.parametrize("repetition", range(times))


EmptyDatabases = dict[str, tuple[AsyncExitStack, ClickHouse]]


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


@pytest.fixture(scope="session")
async def empty_databases() -> AsyncIterator[EmptyDatabases]:
    """Databases with all tables and no rows, by name. Each has an open connection."""
    databases: EmptyDatabases = {}
    yield databases
    for connection, _ in databases.values():
        await connection.aclose()


@pytest.fixture
def settings(request: pytest.FixtureRequest, stack: Stack, tmp_path: Path, empty_databases: EmptyDatabases) -> Settings:
    """Settings of this test alone. Nothing is created yet, or only tables if the test has a lab."""
    own = settings_of_its_own(stack, tmp_path)
    if "lab" in request.fixturenames and empty_databases:
        return own.model_copy(update={"database": next(iter(empty_databases))})
    return own


@pytest.fixture(scope="session")
async def server(stack: Stack) -> AsyncIterator[ClickHouse]:
    """A connection to ClickHouse, in no test's database."""
    async with connect(stack.settings(), database="default") as connected:
        yield connected


@pytest.fixture(scope="session")
async def admin(stack: Stack) -> AsyncIterator[AIOKafkaAdminClient]:
    """A client for topics."""
    async with kafka.admin(stack.settings()) as client:
        yield client


@pytest.fixture(scope="session")
async def raw_producer(stack: Stack) -> AsyncIterator[AIOKafkaProducer]:
    """A producer of records as foreign clients send them, each at once."""
    client = AIOKafkaProducer(
        bootstrap_servers=stack.settings().kafka,
        acks="all",
        enable_idempotence=True,
        compression_type="lz4",
        max_request_size=kafka.MAX_DEAD_LETTER_BYTES,
    )
    await client.start()
    yield client
    await client.stop()


@pytest.fixture(scope="session")
async def redis(stack: Stack) -> AsyncIterator[Redis]:
    """A connection to Redis; each test has a key prefix of its own."""
    async with connect_redis(stack.settings()) as connected:
        yield connected


@pytest.fixture(scope="session")
async def tables(stack: Stack, server: ClickHouse, tmp_path_factory: pytest.TempPathFactory) -> Tables:
    """The tables that the migrations make, to be created for each test."""
    made_by_migrations = settings_of_its_own(stack, tmp_path_factory.mktemp("tables"))
    found = await Tables.of_migrations(made_by_migrations)
    await server.command(f"DROP DATABASE {made_by_migrations.database}")
    return found


@pytest.fixture
async def lab(
    settings: Settings,
    server: ClickHouse,
    admin: AIOKafkaAdminClient,
    raw_producer: AIOKafkaProducer,
    tables: Tables,
    empty_databases: EmptyDatabases,
) -> AsyncIterator[Lab]:
    """Topic and tables of one test. Tables that it leaves unchanged are cleared for another."""
    await kafka.create_topics(settings)
    if settings.database in empty_databases:
        connection, database = empty_databases.pop(settings.database)
    else:
        await tables.create_in(server, settings.database)
        connection = AsyncExitStack()
        database = await connection.enter_async_context(connect(settings))
    yield Lab(settings, database, raw_producer)
    if await tables.clear(server, settings.database):
        empty_databases[settings.database] = connection, database
    else:
        await connection.aclose()
        await server.command(f"DROP DATABASE {settings.database}")
    await admin.delete_topics([settings.topic, settings.dead_letter_topic_name])
    await raw_producer.client.set_topics([])


@pytest.fixture(scope="session")
async def shared_lab(
    stack: Stack,
    server: ClickHouse,
    raw_producer: AIOKafkaProducer,
    tables: Tables,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Lab]:
    """A topic and tables shared by tests that check only answers, or only new events."""
    settings = settings_of_its_own(stack, tmp_path_factory.mktemp("shared"))
    await kafka.create_topics(settings)
    await tables.create_in(server, settings.database)
    async with connect(settings) as database:
        yield Lab(settings, database, raw_producer)


@pytest.fixture(scope="session")
async def shared_api(shared_lab: Lab) -> AsyncIterator[httpx.AsyncClient]:
    """The API of the shared topic and tables."""
    from tests.http_lab import api_of, with_key

    async with api_of(with_key(shared_lab.settings)) as client:
        yield client


@pytest.fixture
def narrow(settings: Settings) -> Settings:
    """Settings with a window of a second."""
    return settings.model_copy(update={"dedup_window_ms": W, "clock_skew_ms": 0})
