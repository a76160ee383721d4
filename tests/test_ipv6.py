"""Everything that listens or connects does so over IPv6 as well."""

import asyncio
import errno
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from pydantic import SecretStr

from consumers.worker import Worker
from runtime.errors import SettingsError
from runtime.kafka import require_topic
from runtime.metrics_server import serve_metrics
from runtime.ports import ANY_ADDRESS, free_port, host_and_port, is_free, listening_sockets, reserved_port
from runtime.settings import Settings
from tests.http_lab import EVENT, PATH, api_of, served, with_key
from tests.lab import Lab


@asynccontextmanager
async def over_ipv6(port: int) -> AsyncIterator[str]:
    """An address of IPv6 that leads to a port of IPv4."""

    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)

        async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            while data := await source.read(65_536):
                target.write(data)
                await target.drain()
            target.close()

        await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer), return_exceptions=True)

    server = await asyncio.start_server(join, "::1", 0)
    try:
        yield host_and_port("::1", server.sockets[0].getsockname()[1])
    finally:
        server.close()


async def test_every_store_is_reached_over_ipv6(lab: Lab) -> None:
    """An event goes from the API through a worker to a reader with addresses of IPv6 alone."""
    settings = with_key(lab.settings, read_wait_ms=0)
    redis, clickhouse = (urlsplit(each.get_secret_value()) for each in (settings.redis, settings.clickhouse))
    async with AsyncExitStack() as stack:

        async def moved(port: int | None) -> str:
            return await stack.enter_async_context(over_ipv6(port or 0))

        login = f"{clickhouse.netloc.rpartition('@')[0]}@" if "@" in clickhouse.netloc else ""
        secret = f"{redis.netloc.rpartition('@')[0]}@" if "@" in redis.netloc else ""
        settings = Settings.model_validate(
            settings.model_dump()
            | {
                "kafka": await moved(int(settings.kafka.rpartition(":")[2])),
                "redis": redis._replace(netloc=secret + await moved(redis.port)).geturl(),
                "clickhouse": clickhouse._replace(netloc=login + await moved(clickhouse.port)).geturl(),
            }
        )
        async with api_of(settings) as api:
            interaction_id = (await api.post(PATH, json=EVENT)).json()["interaction_id"]
            await Worker(settings, instance=None, until_caught_up=True).run()
            assert (await api.get(f"{PATH}/{interaction_id}")).json()["feature_id"] == EVENT["feature_id"]


async def test_brokers_that_do_not_answer_over_ipv6_are_named() -> None:
    """An address in brackets is tried as an address, and named as it was written."""
    nowhere = Settings(kafka="[::1]:1", clickhouse=SecretStr("http://[::1]:1"), connect_timeout_ms=500)
    with pytest.raises(Exception, match=r"\[::1\]:1"):
        await require_topic(nowhere)


async def test_the_api_and_the_metrics_of_a_worker_answer_over_both(lab: Lab) -> None:
    """With the address :: one port answers over IPv6 and over IPv4."""
    settings = with_key(lab.settings, metrics_port=free_port(), metrics_host=ANY_ADDRESS)
    async with served(settings, host=ANY_ADDRESS) as url, httpx.AsyncClient() as client:
        port = int(url.rpartition(":")[2])
        for host in ("::1", "127.0.0.1"):
            assert (await client.get(f"http://{host_and_port(host, port)}/v1/health")).status_code == 200
            with serve_metrics(settings, why_not_ready=lambda: ""):
                operators = f"http://{host_and_port(host, settings.metrics_port)}"
                assert (await client.get(f"{operators}/v1/ready")).status_code == 200


@pytest.mark.parametrize(
    ("host", "answering"),
    [
        ("127.0.0.1", {"127.0.0.1"}),
        ("::1", {"::1"}),
        (ANY_ADDRESS, {"127.0.0.1", "::1"}),
        ("localhost", {address[4][0] for address in socket.getaddrinfo("localhost", None, type=socket.SOCK_STREAM)}),
    ],
)
def test_listening_sockets_cover_exactly_the_addresses_of_a_host(host: str, answering: set[str]) -> None:
    """The listening sockets of a host cover all of its addresses, and no others."""
    port = free_port()
    with listening_sockets(host, port):
        assert not is_free(port, host)
        found = set()
        for address in ("127.0.0.1", "::1"):
            try:
                socket.create_connection((address, port), timeout=5).close()
            except ConnectionRefusedError:
                continue
            found.add(address)
        assert found == answering
    assert is_free(port, host)


def test_without_ipv6_the_any_address_covers_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine without IPv6, the address :: listens on IPv4."""
    real = socket.socket

    def without_ipv6(family: int = socket.AF_INET, *rest: Any) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return real(family, *rest)

    monkeypatch.setattr("runtime.ports.socket.socket", without_ipv6)
    with listening_sockets(ANY_ADDRESS, free_port()) as sockets:
        assert [each.family for each in sockets] == [socket.AF_INET]


@pytest.mark.parametrize(
    ("value", "is_right"),
    [
        ("[::1]:9092", True),
        ("[fd00::1]:9092,broker:9092", True),
        ("127.0.0.1:9092", True),
        ("::1:9092", False),
        ("[::1]", False),
        ("fd00::1", False),
        ("broker:٣", False),
    ],
)
def test_an_ipv6_broker_address_needs_brackets(
    value: str, is_right: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without brackets the port cannot be separated from the address."""
    monkeypatch.setenv("TALLY_KAFKA", value)
    if is_right:
        assert Settings.load(tmp_path).kafka == value
    else:
        with pytest.raises(SettingsError, match="TALLY_KAFKA"):
            Settings.load(tmp_path)


def test_addresses_are_written_in_url_form() -> None:
    """An IPv6 address is in brackets before a port."""
    assert host_and_port("::1", 80) == "[::1]:80"
    assert host_and_port("localhost", 80) == "localhost:80"


def test_a_reserved_port_is_for_a_server_with_a_shared_socket_alone() -> None:
    port = free_port()
    with reserved_port(port):
        assert not is_free(port)
        with listening_sockets("127.0.0.1", port, shared=True), socket.create_connection(("127.0.0.1", port)):
            pass
    assert is_free(port)
