"""Stores that want to know who asks: events pass through, and who is wrong is told which setting is."""

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError

from deploy.embedded.stack import Stack
from runtime import kafka
from runtime.clickhouse import connect
from runtime.errors import Fatal, SettingsError, TallyError
from runtime.kafka_connection import connection
from runtime.ports import free_port
from runtime.redis import connect_redis
from runtime.settings import Settings
from tests.http_lab import EVENT, PATH, api_of, consuming, with_key
from tests.lab import lab_of, settings_of_its_own
from tests.secure_lab import API_PASSWORD, PASSWORD, WORKER_PASSWORD, Secure, secured
from tests.test_cli import CLEAN, TALLY


@pytest.fixture(scope="module")
def secure(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    """Stores with TLS and users."""
    folder = tmp_path_factory.mktemp("secure, Käse \\ 1")
    with secured(stack, settings_of_its_own(stack, folder), folder) as found:
        yield found


async def test_events_pass_through_all_of_it(secure: Secure) -> None:
    """Each role with a Redis user of its own, who may do what it needs and nothing else."""
    of_api = secure.settings.model_copy(update={"redis": secure.redis("tally_api", API_PASSWORD)})
    reading = with_key(of_api, read_wait_ms=30_000, rate_limit_per_s=1_000)
    async with lab_of(secure.settings) as lab, api_of(reading) as api, consuming(secure.settings):
        first = await api.post(PATH, json=EVENT)
        assert first.status_code == 200, first.text
        assert "x-ratelimit-remaining" in first.headers
        again = await api.post(PATH, json=EVENT)
        assert again.headers["x-duplicate-of"] == first.headers["x-interaction-id"]
        for answer in (first, again):
            found = await api.get(f"{PATH}/{answer.headers['x-interaction-id']}")
            assert found.json()["feature_id"] == "doc-1"
        assert await lab.count("interactions") == await lab.count("outcomes") == 1
    async with connect_redis(secure.settings) as redis:
        assert isinstance(redis, Redis)
        with pytest.raises(NoPermissionError):
            await redis.set("another", 1)
        with pytest.raises(NoPermissionError):
            await redis.flushall()


def wrong(secure: Secure) -> dict[str, dict[str, object]]:
    """What may be wrong, by the setting that the error must name."""
    return {
        "TALLY_KAFKA_PASSWORD": {"kafka_password": SecretStr("wrong")},
        "TALLY_KAFKA_SASL_MECHANISM": {"kafka_sasl_mechanism": "SCRAM-SHA-256"},
        "TALLY_KAFKA_SECURITY_PROTOCOL": {"kafka_security_protocol": "PLAINTEXT"},
        "TALLY_TLS_CA_FILE": {"tls_ca_file": str(secure.wrong_ca_file)},
        "TALLY_REDIS": {"redis": secure.redis("tally_worker", "wrong")},
    }


async def _each_store(settings: Settings) -> None:
    async with kafka.admin(settings), connect_redis(settings), connect(settings, database="default"):
        pass


async def test_each_wrong_setting_is_named(secure: Secure) -> None:
    await _each_store(secure.settings)
    patient = secure.settings.model_copy(update={"connect_timeout_ms": 5_000})
    for name, update in wrong(secure).items():
        with pytest.raises(TallyError, match=name):
            await _each_store(patient.model_copy(update=update))


async def test_a_certificate_that_is_not_trusted_is_fatal_for_each_store(secure: Secure) -> None:
    settings = secure.settings.model_copy(update={"tls_ca_file": str(secure.wrong_ca_file)})
    for opened in (kafka.admin(settings), connect_redis(settings), connect(settings, database="default")):
        with pytest.raises(Fatal, match="TALLY_TLS_CA_FILE"):
            async with opened:
                pass


async def test_half_of_the_settings_is_refused(secure: Secure, tmp_path: Path) -> None:
    without = secure.settings.model_copy(update={"kafka_password": SecretStr("")})
    with pytest.raises(SettingsError, match="TALLY_KAFKA_PASSWORD"):
        connection(without)
    (tmp_path / "empty").write_text("no certificate")
    for path in ("/nowhere", str(tmp_path / "empty")):
        with pytest.raises(SettingsError, match="TALLY_TLS_CA_FILE"):
            connection(secure.settings.model_copy(update={"tls_ca_file": path}))


@pytest.mark.parametrize("name", ["TALLY_KAFKA_PASSWORD", "TALLY_REDIS"])
async def test_with_a_wrong_password_every_process_says_so_and_exits(secure: Secure, name: str) -> None:
    async with lab_of(secure.settings):
        environment = CLEAN | secure.settings.model_copy(update=wrong(secure)[name]).as_environment()
        roles = ("collector", "reader") if name == "TALLY_KAFKA_PASSWORD" else ("all",)
        commands = [
            [TALLY, "consume"],
            *([TALLY, "serve", role, "--port", str(free_port())] for role in roles),
            *([[TALLY, "emit", "-"]] if name == "TALLY_KAFKA_PASSWORD" else []),
        ]
        for command in commands:
            done = await asyncio.to_thread(
                subprocess.run,
                command,
                check=False,
                input="",
                capture_output=True,
                text=True,
                env=environment,
                timeout=90,
            )
            said = done.stderr + done.stdout
            assert done.returncode == Fatal.exit_code, (command, said)
            assert name in said, (command, said)
            assert "Traceback" not in said
            assert not any(secret in said for secret in (PASSWORD, WORKER_PASSWORD, API_PASSWORD))
