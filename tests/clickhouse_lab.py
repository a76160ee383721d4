"""The ClickHouse front with tables in `tally`, the database that its analyst may read."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import httpx

from deploy.embedded.stack import Stack
from runtime.clickhouse import connect
from runtime.http.key_store import KeyStore
from runtime.migrate import migrate
from runtime.settings import without_password

DEADLINE_S = 20.0


class Front(NamedTuple):
    """The front's address without a user, and a client for each user."""

    address: str
    owner: httpx.Client
    analyst: httpx.Client


@asynccontextmanager
async def front_of(stack: Stack) -> AsyncIterator[Front]:
    """The front of a stack with tables and a secret key."""
    tables, endpoints = stack.settings(), stack.stack_file().endpoints
    await migrate(tables)
    async with connect(tables) as database:
        await KeyStore(database).create("a secret one", ["write"], ["default"])
    with (
        httpx.Client(base_url=endpoints.clickhouse, timeout=DEADLINE_S) as owner,
        httpx.Client(base_url=endpoints.analyst, timeout=DEADLINE_S) as analyst,
    ):
        yield Front(without_password(endpoints.clickhouse), owner, analyst)
    async with connect(tables, database="default") as server:
        await server.command(f"DROP DATABASE {tables.database}")


def code_of(answer: httpx.Response) -> str:
    """ClickHouse's error code; empty for a success."""
    return str(answer.headers.get("x-clickhouse-exception-code", ""))
