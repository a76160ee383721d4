"""Settings: precedence of sources, and errors that name invalid ones."""

import os
from pathlib import Path

import pytest
from pydantic import SecretStr

from runtime.clickhouse import connect
from runtime.errors import SettingsError
from runtime.redis import connect_redis
from runtime.settings import Settings
from runtime.stack_file import Endpoints, Pids, StackFile

RUNNING = StackFile(
    endpoints=Endpoints(kafka="k:1", redis="redis://r:2", clickhouse="http://c:3", api="http://a:4"),
    pids=Pids(up=os.getpid(), kafka=1, redis=1, clickhouse=1),
    key="its-key",
    settings={"topic": "its-topic"},
)


def test_the_environment_overrides_the_stack_and_the_stack_overrides_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    RUNNING.write(tmp_path)
    monkeypatch.setenv("TALLY_KAFKA", "mine:9092")
    settings = Settings.load(tmp_path)
    assert settings.kafka == "mine:9092"
    assert settings.topic == "its-topic"
    assert settings.api_key.get_secret_value() == "its-key"
    assert settings.group == "tally"


def test_the_file_of_an_ended_stack_is_ignored(tmp_path: Path) -> None:
    gone = RUNNING.model_copy(update={"pids": RUNNING.pids.model_copy(update={"up": 2**22 + 1})})
    gone.write(tmp_path)
    with pytest.raises(SettingsError, match="TALLY_KAFKA is not set and no stack runs"):
        Settings.load(tmp_path).need("kafka")


def test_the_error_of_an_invalid_setting_is_plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALLY_KAFKA", "nonsense")
    with pytest.raises(SettingsError, match=r"^TALLY_KAFKA: write host:port"):
        Settings.load(tmp_path)
    monkeypatch.setenv("TALLY_KAFKA", "k:1")
    monkeypatch.setenv("TALLY_BATCH_UNCOMPRESSED_BYTES", "1048576")
    with pytest.raises(SettingsError, match=r"^TALLY_BATCH_UNCOMPRESSED_BYTES must be at least"):
        Settings.load(tmp_path)


def test_an_incomplete_file_is_not_a_stack(tmp_path: Path) -> None:
    (tmp_path / "stack.json").write_text('{"endpoints": ')
    assert StackFile.of_running_stack(tmp_path) is None


def test_the_file_is_for_its_owner_only(tmp_path: Path) -> None:
    RUNNING.write(tmp_path)
    assert (tmp_path / "stack.json").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [("BATCH_ROWS", "many"), ("PARTITIONS", "0"), ("NAMESPACE", ""), ("API_NAMESPACES", "a,,b"), ("KAFKA", "broker")],
)
def test_a_wrong_setting_is_named(name: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"TALLY_{name}", value)
    with pytest.raises(SettingsError, match=f"TALLY_{name}"):
        Settings.load(tmp_path)


async def test_an_address_that_cannot_be_read_is_named_without_its_password() -> None:
    for opened, name in (
        (connect(Settings(clickhouse=SecretStr("http://u:s3c/ret@h:1"))), "TALLY_CLICKHOUSE"),
        (connect(Settings(clickhouse=SecretStr("h:1"))), "TALLY_CLICKHOUSE"),
        (connect_redis(Settings(redis=SecretStr("redis://u:s3c/ret@h:1"))), "TALLY_REDIS"),
        (connect_redis(Settings(redis=SecretStr("h:1"))), "TALLY_REDIS"),
    ):
        with pytest.raises(SettingsError, match=name) as raised:
            async with opened:
                pass
        assert "s3c" not in str(raised.value)


def test_a_setting_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="unknown settings: kafak"):
        Settings.load(tmp_path, kafak="h:1")


def test_a_variable_that_is_not_a_setting_is_logged_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TALLY_TOPPIC", "x")
    monkeypatch.setenv("TALLY_KEY", "k")
    for _ in range(2):
        Settings.load(tmp_path)
    assert caplog.messages == ["TALLY_TOPPIC is ignored: no setting has this name (docs/settings.md)"]


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TALLY_REDIS", "redis://:hunter2@r:1")
    monkeypatch.setenv("TALLY_API_KEY", "hunter2")
    assert "hunter2" not in repr(Settings.load(tmp_path))


def test_a_child_loads_the_same_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    parent = Settings.load(tmp_path, topic="t", api_namespaces=("a", "b"), redis="redis://:pw@r:1", batch_rows=7)
    for name, value in parent.as_environment().items():
        monkeypatch.setenv(name, value)
    assert Settings.load() == parent
