"""Stores with authentication: events pass, and an error names the wrong setting."""

import asyncio
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiokafka.errors import TopicAuthorizationFailedError
from pydantic import SecretStr
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError

from consumers.retention import expire_interactions, expire_outcomes
from deploy.embedded.stack import Stack
from readers.export_format import EXPORT_FORMATS
from runtime import kafka
from runtime.clickhouse import connect
from runtime.errors import Fatal, SettingsError, TallyError
from runtime.http.key_store import KeyStore
from runtime.kafka_connection import connection_options
from runtime.migrate import migrate
from runtime.ports import free_port
from runtime.redis import connect_redis
from runtime.settings import Settings
from tests.cli_lab import CLEAN, TALLY
from tests.http_lab import (
    EVENT,
    PATH,
    api_of,
    consuming,
    until_all_ready,
    until_keys_are_known,
    with_key,
)
from tests.lab import Lab, as_json, lab_of, settings_of_its_own
from tests.secure_lab import PASSWORDS, Secure, secured
from tests.waiting import eventually_async


@pytest.fixture(scope="module")
def secure(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    """Stores with TLS and users."""
    folder = tmp_path_factory.mktemp("secure, Käse \\ 1")
    with secured(settings_of_its_own(stack, folder), folder) as found:
        yield found


async def test_events_are_stored_and_read_with_all_security_settings(secure: Secure) -> None:
    """Each role is a user of its own in each store, with the rights that it needs."""
    collecting, reading = (
        with_key(secure.of(role), read_wait_ms=30_000, rate_limit_per_s=1_000)
        for role in ("tally_collector", "tally_reader")
    )
    async with (
        lab_of(secure.settings) as lab,
        api_of(collecting, "collector") as collector,
        api_of(reading, "reader") as reader,
        consuming(secure.of("tally_worker")),
    ):
        await KeyStore(lab.database).create("another", ["write"], ["default"])
        await until_keys_are_known(collector)
        first = await collector.post(PATH, json=EVENT)
        assert first.status_code == 200, first.text
        assert "x-ratelimit-remaining" in first.headers
        assert (await collector.get("/v1/ready")).json()["ready"] is True
        again = await collector.post(PATH, json=EVENT)
        for answer in (first, again):
            found = await reader.get(f"{PATH}/{answer.headers['x-interaction-id']}")
            assert found.json()["feature_id"] == "doc-1", found.text
        assert again.headers["x-duplicate-of"] == first.headers["x-interaction-id"]
        assert await lab.count("interactions") == await lab.count("outcomes") == 1
        await lab.put(b"no JSON")
        await lab.put(as_json("doc-2", position=-1))
        await eventually_async(partial(_has_outcomes, lab, 3))  # which follow the dead letters
        replayed = await reader.post("/v1/dead-letters/replay", json={"patch": {"position": 1}, "dry_run": False})
        assert [each["interaction_id"] for each in replayed.json()["replayed_as"]], replayed.text
        await eventually_async(partial(_has_events, lab, 2))
        for output in EXPORT_FORMATS:
            exported = await reader.get("/v1/export", params={"format": output})
            assert exported.status_code == 200, exported.text
            assert first.headers["x-interaction-id"].encode() in exported.content
        assert (await reader.delete(f"{PATH}/{first.headers['x-interaction-id']}")).status_code == 200
        assert (await collector.post(PATH, json=EVENT | {"shelf": 1})).status_code == 422
        await eventually_async(partial(_has_refusals, reader, 1))
        new = await reader.post("/v1/keys", json={"name": "n", "scopes": ["read"], "namespaces": ["default"]})
        assert new.status_code == 201, new.text
        assert (await reader.delete(f"/v1/keys/{new.json()['key_id']}")).status_code == 200
        await until_all_ready(reader, {"redis", "keys", "clickhouse", "progress", "workers"})
    async with connect(secure.of("tally_worker")) as database:
        later = datetime.now(UTC) + timedelta(days=100)
        assert await expire_outcomes(database, 1, later)
        assert await expire_interactions(database, 1, later, wait=True)


async def _has_events(lab: Lab, count: int) -> bool:
    return await lab.count("interactions") == count


async def _has_refusals(reader: httpx.AsyncClient, count: int) -> bool:
    answer = await reader.get("/v1/refusals")
    assert answer.status_code == 200, answer.text
    return bool(answer.json()["refused"] == count)


async def _has_outcomes(lab: Lab, count: int) -> bool:
    return await lab.count("outcomes") == count


REFUSED = {
    "tally_collector": ["SELECT count() FROM interactions", "INSERT INTO deletions (namespace) SELECT 'x'"],
    "tally_reader": ["INSERT INTO ledger (_topic) SELECT 'x'", "ALTER TABLE interactions DELETE WHERE 1"],
    "tally_worker": ["SELECT * FROM api_keys", "DROP TABLE interactions", "INSERT INTO api_keys (key_id) SELECT 'x'"],
    "tally_analyst": ["SELECT * FROM api_keys", "INSERT INTO topics (topic) SELECT 'x'"],
    "tally_admin": ["CREATE DATABASE another", "CREATE TABLE others.t (a Int8) ENGINE = Memory"],
}


@pytest.mark.parametrize("role", REFUSED)
async def test_a_role_has_no_other_rights_in_clickhouse(secure: Secure, role: str) -> None:
    await migrate(secure.settings)
    async with connect(secure.of(role)) as database:
        for sql in REFUSED[role]:
            with pytest.raises(Fatal, match="TALLY_CLICKHOUSE"):
                await database.command(sql)


async def test_a_role_has_no_other_rights_in_redis(secure: Secure) -> None:
    for role in ("tally_worker", "tally_collector", "tally_reader"):
        async with connect_redis(secure.of(role)) as redis:
            assert isinstance(redis, Redis)
            for refused in (redis.set("another", 1), redis.flushall(), redis.config_set("maxmemory", 1), redis.keys()):
                with pytest.raises(NoPermissionError):
                    await refused


async def test_a_role_has_no_other_rights_in_kafka(secure: Secure) -> None:
    await kafka.create_topics(secure.settings)
    for role in ("tally_worker", "tally_collector", "tally_reader"):
        async with kafka.admin(secure.of(role)) as client:
            answer: Any = await client.delete_topics([secure.settings.topic])
            assert [error for _, error, *_ in answer.topic_error_codes] == [TopicAuthorizationFailedError.errno], role
    with pytest.raises(TallyError, match="ClusterAuthorizationFailed"):
        async with kafka.producer(secure.of("tally_analyst")):
            pass


def wrong(secure: Secure) -> dict[str, dict[str, object]]:
    """Wrong values, by the setting that the error must name."""
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


async def test_incomplete_security_settings_are_refused(secure: Secure, tmp_path: Path) -> None:
    without = secure.settings.model_copy(update={"kafka_password": SecretStr("")})
    with pytest.raises(SettingsError, match="TALLY_KAFKA_PASSWORD"):
        connection_options(without)
    (tmp_path / "empty").write_text("no certificate")
    for path in ("/nowhere", str(tmp_path / "empty")):
        with pytest.raises(SettingsError, match="TALLY_TLS_CA_FILE"):
            connection_options(secure.settings.model_copy(update={"tls_ca_file": path}))


@pytest.mark.parametrize("name", ["TALLY_KAFKA_PASSWORD", "TALLY_REDIS"])
async def test_every_process_exits_with_an_error_on_a_wrong_password(secure: Secure, name: str) -> None:
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
            assert not any(secret in said for secret in PASSWORDS.values())
