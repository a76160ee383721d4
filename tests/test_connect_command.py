"""`tally connect`: addresses and examples, and the examples that can be run here."""

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from pydantic import SecretStr

from deploy.embedded.stack import Stack
from runtime.errors import SettingsError
from runtime.settings import Settings
from tally.cli.connect import CLIENTS
from tally.connect import Connections
from tests.cli_lab import CLEAN, command, environment
from tests.clickhouse_lab import front_of

OWN = Settings(
    kafka="kafka-1:9093",
    kafka_security_protocol="SASL_SSL",
    kafka_username="ada",
    kafka_password=SecretStr("kafka's secret"),
    clickhouse=SecretStr("https://writer:writing@clickhouse.example"),
    analyst=SecretStr("https://an%20alyst:p%2Fw@clickhouse.example:9443"),
    redis=SecretStr("rediss://worker:redis-secret@redis.example:6380/2"),
    database="shop",
)
SECRETS = ("kafka's secret", "writing", "p/w", "p%2Fw", "redis-secret")


@pytest.fixture(scope="module")
async def variables(stack: Stack) -> AsyncIterator[dict[str, str]]:
    """The environment of commands that find the stack's analyst."""
    async with front_of(stack):
        analyst = SecretStr(stack.stack_file().endpoints.analyst)
        yield environment(stack.settings().model_copy(update={"analyst": analyst}))


def output_of(example: str, variables: dict[str, str], shell: list[str]) -> str:
    """Run an example as it is printed, with the variables that `tally connect env` sets."""
    exports = command("connect", "env", "--show-secrets", env=variables).stdout
    text = command("connect", example, env=variables).stdout
    script = f'{exports}\nexec "$@"'
    done = subprocess.run(
        ["/bin/sh", "-c", script, "sh", *shell, text],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=CLEAN,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_curl_reads_as_the_analyst(variables: dict[str, str]) -> None:
    assert output_of("curl", variables, ["sh", "-c"]) == "0\n"


def test_clickhouse_connect_reads_as_the_analyst(variables: dict[str, str]) -> None:
    assert output_of("clickhouse-connect", variables, [sys.executable, "-c"]) == "[(0,)]\n"


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_data_frames_are_read(variables: dict[str, str], library: str) -> None:
    if find_spec(library):
        assert output_of(library, variables, [sys.executable, "-c"]), "the table has no rows"
    else:
        compile(command("connect", library, env=variables).stdout, library, "exec")


def test_own_stores_are_described_without_secrets() -> None:
    done = command("connect", env=environment(OWN))
    assert done.returncode == 0, done.stderr
    assert not [secret for secret in SECRETS if secret in done.stdout]
    assert "clickhouse  clickhouse.example:9443, database shop; user an alyst may only read" in done.stdout
    assert "kafka       kafka-1:9093, topic interactions" in done.stdout
    assert "redis       rediss://worker@redis.example:6380/2" in done.stdout
    assert "\napi  " not in done.stdout
    assert "sasl.username=ada" in done.stdout
    assert "export CLICKHOUSE_PASSWORD=...\n" in done.stdout
    assert all(f"# {client}: " in done.stdout for client in CLIENTS)


def test_secrets_are_shown_when_asked_for() -> None:
    found = json.loads(command("connect", "--json", "--show-secrets", env=environment(OWN)).stdout)
    assert found["environment"] == {
        "CLICKHOUSE_PASSWORD": "p/w",
        "KAFKA_PASSWORD": "kafka's secret",
        "REDISCLI_AUTH": "redis-secret",
    }
    hidden = json.loads(command("connect", "--json", env=environment(OWN)).stdout)
    assert hidden == found | {"environment": dict.fromkeys(found["environment"])}
    assert found["clickhouse"]["user"] == "an alyst"
    assert (found["clickhouse"]["port"], found["clickhouse"]["tls"]) == (9443, True)


def test_a_user_who_may_write_is_named() -> None:
    done = command("connect", env=environment(OWN) | {"TALLY_ANALYST": ""})
    assert "user writer may write: set TALLY_ANALYST to a read-only user" in done.stdout


def test_the_names_of_examples_are_complete() -> None:
    assert tuple(each.client for each in Connections(OWN, api_url="").examples) == CLIENTS


def test_a_store_without_an_address_is_left_out(tmp_path: Path) -> None:
    only_clickhouse = CLEAN | {"TALLY_CLICKHOUSE": "http://127.0.0.1:1", "TALLY_DATA_DIR": str(tmp_path)}
    assert "kcat" not in command("connect", env=only_clickhouse).stdout
    assert "TALLY_KAFKA" in command("connect", "kcat", env=only_clickhouse).stderr
    wrong = command("connect", "fax", env=only_clickhouse)
    assert (wrong.returncode, "'fax' is not one of env, api" in " ".join(wrong.stderr.split())) == (2, True)
    nothing = command("connect", env=CLEAN | {"TALLY_DATA_DIR": os.devnull})
    assert (nothing.returncode, "start one with `tally up`" in nothing.stderr) == (SettingsError.exit_code, True)
