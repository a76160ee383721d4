"""All settings. `TALLY_<NAME>` in the environment overrides the value of a running stack, which overrides the
default."""

import logging
import os
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import quote, urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import NoDecode, SettingsConfigDict

from runtime.errors import SettingsError
from runtime.log import LogFormat
from runtime.settings.consumer import ConsumerSettings
from runtime.settings.http import HttpSettings
from runtime.settings.kafka import KafkaSettings
from runtime.settings.learning import LearningSettings
from runtime.settings.reports import ReportSettings
from runtime.settings.stores import ClickHouseSettings, RedisSettings, RetentionSettings
from runtime.settings.weights import WeightSettings
from runtime.stack_file import StackFile, StackPhase
from runtime.text import register_secrets
from schemas.wire import check_namespace

DEFAULT_DATA_DIR = Path(".tally")
NOT_SETTINGS = {"TALLY_KEY", "TALLY_IMAGE", "TALLY_TEST_STANDINS"}
"""Variables that a command, Compose and the tests read."""
CONSOLE_PREFIX = "TALLY_CONSOLE_"
"""Prefix of the settings of the console, a program that has its own."""
__all__ = ["DEFAULT_DATA_DIR", "Settings", "with_user", "without_password"]


class Settings(
    KafkaSettings,
    RedisSettings,
    ClickHouseSettings,
    ConsumerSettings,
    RetentionSettings,
    ReportSettings,
    LearningSettings,
    WeightSettings,
    HttpSettings,
):
    """All settings of all processes. Sizes are in bytes, times in milliseconds, unless the name says otherwise."""

    model_config = SettingsConfigDict(env_prefix="TALLY_", frozen=True, extra="ignore")

    data_dir: Path = DEFAULT_DATA_DIR
    """Directory of the embedded stack's data, logs and stack.json."""
    cache_dir: Path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tally"
    """Directory of Kafka's jars, shared by all data directories."""
    tls_ca_file: str = ""
    """PEM file of the certificate authorities for Kafka, Redis and ClickHouse. Empty: the system's."""
    traces_endpoint: str = ""
    """OTLP endpoint over HTTP that traces are sent to: http[s]://host:port/v1/traces. Empty: no traces."""
    traces_ratio: float = Field(0.01, ge=0, le=1)
    """Fraction of requests that are traced, besides those that the caller traces already."""
    log_format: LogFormat = "text"
    """Log format: text, or json with one object per line."""
    namespace: str = "default"
    """Default namespace, of records without a namespace header and of commands."""
    api_key: SecretStr = SecretStr("")
    """API key with all scopes, besides the keys of `tally keys`. Empty: none, but `tally up` generates one."""
    api_namespaces: Annotated[tuple[str, ...], NoDecode] = Field(("default",), min_length=1)
    """Namespaces of TALLY_API_KEY, separated by commas. The first is the default of its requests."""
    connect_timeout_ms: int = Field(10_000, ge=100)
    """Milliseconds until a store that does not answer is reported."""

    @field_validator("key_prefix", "topic")
    @classmethod
    def _without_braces(cls, value: str) -> str:
        if "{" in value or "}" in value:
            raise ValueError("must not contain { or }: Redis Cluster hashes only the text between them")
        return value

    @field_validator("namespace")
    @classmethod
    def _namespace(cls, value: str) -> str:
        return check_namespace(value)

    @field_validator("api_namespaces", mode="before")
    @classmethod
    def _namespaces(cls, value: object) -> object:
        return tuple(check_namespace(name.strip()) for name in value.split(",")) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        if self.interactions_days and self.interactions_days * 86_400_000 < 2 * self.reach_back_ms:
            raise ValueError("TALLY_INTERACTIONS_DAYS must be more than 4 times TALLY_DEDUP_WINDOW_MS")
        if self.batch_uncompressed_bytes < self.max_record_bytes:
            raise ValueError("TALLY_BATCH_UNCOMPRESSED_BYTES must be at least TALLY_MAX_RECORD_BYTES")
        return self

    @classmethod
    def load(cls, data_dir: Path | None = None, **overrides: Any) -> Self:
        """Load the settings of this process: overrides, then the environment, then a running stack, then defaults.

        Raises SettingsError that names each invalid variable.
        """
        if unknown := sorted(set(overrides) - set(cls.model_fields)):
            raise SettingsError(f"unknown settings: {', '.join(unknown)}")
        _warn_of_unknown(frozenset(name for name in os.environ if name.startswith("TALLY_")))
        chosen = data_dir or Path(os.environ.get("TALLY_DATA_DIR") or DEFAULT_DATA_DIR)
        stack = StackFile.of_running_stack(chosen)
        offered = stack.as_settings() if stack else {}
        named = {name: value for name, value in offered.items() if f"TALLY_{name.upper()}" not in os.environ}
        if "TALLY_CLICKHOUSE" in os.environ:
            named.pop("analyst", None)  # the stack's read-only user does not exist there
        try:
            loaded = cls(**{**named, "data_dir": chosen, **overrides})
        except ValidationError as error:
            wrong = "; ".join(map(_in_words, error.errors(include_input=False)))
            raise SettingsError(wrong) from None
        register_secrets(loaded.secrets())
        return loaded

    def secrets(self) -> list[str]:
        """Return the keys and passwords in these settings, also those in URLs."""
        found = []
        for name in type(self).model_fields:
            if isinstance(value := getattr(self, name), SecretStr):
                text = value.get_secret_value()
                found.append(password_of(text) if "://" in text else text)
        return list(filter(None, found))

    def need(self, *names: str) -> Self:
        """Return these settings; raise SettingsError when one of `names` has no value."""
        for name in names:
            value = getattr(self, name)
            if not (value.get_secret_value() if isinstance(value, SecretStr) else value):
                raise SettingsError(self._missing(f"TALLY_{name.upper()}"))
        return self

    def _missing(self, variable: str) -> str:
        """Return the error for a setting that neither the environment nor a stack provides."""
        phase = StackPhase.of(self.data_dir)
        if phase and phase.state != "running":
            return (
                f"{variable} is not set, and the stack in {self.data_dir} is {phase.state} (pid {phase.pid}): "
                f"wait until that is done, or set {variable}"
            )
        return (
            f"{variable} is not set and no stack runs in {self.data_dir}: "
            f"start one with `tally up`, give its folder as --data-dir, or set {variable}"
        )

    def as_environment(self) -> dict[str, str]:
        """Return environment variables from which a child process loads the same settings."""
        plain: dict[str, str] = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, SecretStr):
                value = value.get_secret_value()
            if isinstance(value, tuple):
                value = ",".join(value)
            plain[f"TALLY_{name.upper()}"] = str(value)
        return plain


@cache
def _warn_of_unknown(variables: frozenset[str]) -> None:
    """Log each variable that looks like a setting and is none, once per process: a misspelled name has no effect."""
    known = {f"TALLY_{name.upper()}" for name in Settings.model_fields} | NOT_SETTINGS
    unknown = (name for name in variables - known if not name.startswith(CONSOLE_PREFIX))
    for name in sorted(unknown):
        logging.getLogger("tally.settings").warning("%s is ignored: no setting has this name (docs/settings.md)", name)


def _in_words(error: ErrorDetails) -> str:
    """Describe an error with its setting's name; an error of several settings names them itself."""
    text = error["msg"].removeprefix("Value error, ")
    return f"TALLY_{str(error['loc'][0]).upper()}: {text}" if error["loc"] else text


def with_user(url: str, user: str, password: str) -> str:
    """Return the URL for another user."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{quote(user, safe='')}:{quote(password, safe='')}@{host}").geturl()


def password_of(url: str) -> str:
    """Return the password in a URL, still percent-encoded."""
    return urlsplit(url).netloc.rpartition("@")[0].partition(":")[2]


def without_password(url: str) -> str:
    """Return the URL without its user and password, for logs and output."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
