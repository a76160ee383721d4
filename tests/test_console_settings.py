"""Settings of the console."""

import logging

import pytest

from console.settings import ConsoleSettings, ConsoleSettingsError


def test_wrong_values_name_their_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"API": "ftp://x", "SECRETS": "short", "SESSION_MS": "soon", "LIVE_EVERY_MS": "1"}.items():
        monkeypatch.setenv(f"TALLY_CONSOLE_{name}", value)
    with pytest.raises(ConsoleSettingsError) as raised:
        ConsoleSettings.load()
    for words in (
        "TALLY_CONSOLE_API: must be an address",
        "TALLY_CONSOLE_SECRETS: each secret must have at least 16 characters",
        "TALLY_CONSOLE_SESSION_MS: ",
        "TALLY_CONSOLE_LIVE_EVERY_MS: ",
    ):
        assert words in str(raised.value)
    assert "short" not in str(raised.value).replace("shorter", "")


def test_without_an_api_the_variable_is_named() -> None:
    with pytest.raises(ConsoleSettingsError, match="TALLY_CONSOLE_API is not set"):
        ConsoleSettings.load(api="")


def test_values_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALLY_CONSOLE_API", "https://api.example/prefix/")
    monkeypatch.setenv("TALLY_CONSOLE_SECRETS", "first of sixteen characters, second of sixteen characters")
    loaded = ConsoleSettings.load()
    assert loaded.api == "https://api.example/prefix"
    assert [each.get_secret_value() for each in loaded.secrets] == [
        "first of sixteen characters",
        "second of sixteen characters",
    ]


def test_a_misspelled_variable_is_named(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("TALLY_CONSOLE_SECRET", "x")
    monkeypatch.setenv("TALLY_CONSOLE_URL", "http://console")
    with caplog.at_level(logging.WARNING):
        ConsoleSettings.load(api="http://127.0.0.1:8080")
    assert [each.getMessage().split(" is ")[0] for each in caplog.records] == ["TALLY_CONSOLE_SECRET"]
