"""Every setting, in one place. `TALLY_<NAME>` in the environment overrides what a running stack offers, which
overrides the default here."""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import quote, urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import NoDecode, SettingsConfigDict

from runtime.errors import SettingsError
from runtime.http_settings import HttpSettings
from runtime.log import LogFormat
from runtime.masking import hide
from runtime.stack_file import Phase, StackFile
from schemas.dedup import DEFAULT_WINDOW_MS
from schemas.letter import MOST_LETTER_BYTES
from schemas.wire import check_namespace

DEFAULT_DATA_DIR = Path(".tally")
MIB = 1024 * 1024


class Settings(HttpSettings):
    """All settings of all processes. Sizes are in bytes, times in milliseconds, unless the name says otherwise."""

    model_config = SettingsConfigDict(env_prefix="TALLY_", frozen=True, extra="ignore")

    data_dir: Path = Field(DEFAULT_DATA_DIR, description="Directory of the embedded stack's data, logs and stack.json.")
    cache_dir: Path = Field(
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tally",
        description="Directory of Kafka's jars, shared by all data directories.",
    )

    kafka: str = Field("", description="Kafka bootstrap servers: host:port[,host:port].")
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="Security protocol of broker connections: SSL encrypts, SASL authenticates."
    )
    kafka_sasl_mechanism: Literal["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"] = Field(
        "SCRAM-SHA-512",
        description="SASL mechanism. PLAIN sends the password to the broker, the SCRAM mechanisms do not.",
    )
    kafka_username: str = Field("", description="User name for SASL.")
    kafka_password: SecretStr = Field(SecretStr(""), description="Password for SASL.")
    redis: SecretStr = Field(
        SecretStr(""), description="Redis URL: redis[s]://[user:password@]host:port/db. rediss:// uses TLS."
    )
    clickhouse: SecretStr = Field(SecretStr(""), description="ClickHouse URL: http[s]://[user:password@]host:port.")
    clickhouse_cluster: str = Field(
        "",
        description=(
            "Name of the ClickHouse cluster that holds the tables, sharded and replicated. Empty: a single node."
        ),
    )
    tls_ca_file: str = Field(
        "", description="PEM file of the certificate authorities for Kafka, Redis and ClickHouse. Empty: the system's."
    )

    metrics_port: int = Field(
        0,
        ge=0,
        le=65535,
        description=(
            "Port of a worker's /metrics, /v1/health and /v1/ready; several workers count up from it. 0: none."
        ),
    )
    metrics_host: str = Field("127.0.0.1", description="Address that a worker's metrics port listens on.")
    traces_endpoint: str = Field(
        "",
        description=(
            "OTLP endpoint over HTTP that traces are sent to: http[s]://host:port/v1/traces. Empty: no traces."
        ),
    )
    traces_ratio: float = Field(
        0.01,
        ge=0,
        le=1,
        description="Fraction of requests that are traced, besides those that the caller traces already.",
    )
    log_format: LogFormat = Field("text", description="Log format: text, or json with one object per line.")

    namespace: str = Field(
        "default", description="Default namespace, of records without a namespace header and of commands."
    )
    api_key: SecretStr = Field(
        SecretStr(""),
        description=(
            "API key with all scopes, besides the keys of `tally keys`. Empty: none, but `tally up` generates one."
        ),
    )
    api_namespaces: Annotated[tuple[str, ...], NoDecode] = Field(
        ("default",),
        min_length=1,
        description="Namespaces of TALLY_API_KEY, separated by commas. The first is the default of its requests.",
    )

    topic: str = Field("interactions", description="Topic of events.")
    dead_letter_topic: str = Field(
        "", description="Topic of dead letters. Empty: the topic of events with .dead-letters appended."
    )
    partitions: int = Field(8, ge=1, le=1000, description="Partitions of the topics that `tally init` creates.")
    replication: int = Field(1, ge=1, le=10, description="Replication factor of the topics that `tally init` creates.")
    min_insync: int = Field(
        0,
        ge=0,
        le=10,
        description="min.insync.replicas of the topics that `tally init` creates. 0: all replicas but one.",
    )
    max_record_bytes: int = Field(
        2 * MIB,
        ge=64 * 1024,
        le=64 * MIB,
        description="Largest record of the topic of events, in bytes (max.message.bytes).",
    )
    group: str = Field(
        "tally", description="Consumer group id. Changing it restarts consumption from the earliest offset."
    )
    session_timeout_ms: int = Field(
        10_000, ge=1_000, description="Milliseconds without a heartbeat until a worker loses its partitions."
    )
    stuck_ms: int = Field(
        30_000,
        ge=100,
        description="Milliseconds without a commit, while records wait, after which a partition is reported as stuck.",
    )
    topic_check_ms: int = Field(
        10_000,
        ge=50,
        description="Milliseconds between a worker's checks of the topic's settings and its partitions' progress.",
    )

    database: str = Field("tally", description="ClickHouse database.")
    key_prefix: str = Field("tally", description="Prefix of all Redis keys.")
    dedup_window_ms: int = Field(
        DEFAULT_WINDOW_MS,
        ge=1,
        le=7 * 86_400_000,
        description="Deduplication window (W) in milliseconds: a repeat within it is a duplicate.",
    )

    claim_slack_ms: int = Field(
        300_000,
        ge=0,
        le=7 * 86_400_000,
        description="Milliseconds that claims outlive 2W. A worker that lags behind by more within 2W rebuilds them.",
    )

    clock_skew_ms: int = Field(
        60_000,
        ge=0,
        le=86_400_000,
        description=(
            "Largest backward step of append times in milliseconds, as when a broker's clock is set or a leader moves."
        ),
    )

    batch_rows: int = Field(150_000, ge=1, le=1_000_000, description="Maximum rows per insert.")
    batch_bytes: int = Field(64 * MIB, ge=1, le=1024 * MIB, description="Maximum encoded bytes per insert.")
    batch_uncompressed_bytes: int = Field(
        64 * MIB,
        ge=MIB,
        le=1024 * MIB,
        description=(
            "Largest record batch that is read, in bytes, uncompressed. The offsets of a larger one are "
            "rejected; reading one takes about four times as much memory."
        ),
    )
    batch_age_ms: int = Field(
        100,
        ge=1,
        le=60_000,
        description=(
            "Maximum batching delay in milliseconds, while fewer records wait at the broker than fill a batch."
        ),
    )

    reject_window: int = Field(
        10_000,
        ge=1,
        description=(
            "Records of one namespace in one worker over which its reject fuse counts. It trips when at least "
            "half were rejected, and closes when less than half are."
        ),
    )
    reject_policy: Literal["drain", "hold"] = Field(
        "drain",
        description=(
            "Treatment of valid events while their namespace's reject fuse has tripped: drain stores them, "
            "hold makes them dead letters (namespace_held) to replay later."
        ),
    )

    emit_in_flight: int = Field(5_000, ge=1, description="Maximum unacknowledged records of a Python producer.")
    delivery_timeout_ms: int = Field(
        30_000, ge=1_000, description="Milliseconds until a producer gives up a record that Kafka does not acknowledge."
    )
    outcomes_days: int = Field(
        400,
        ge=1,
        description=(
            "Days that outcomes (duplicates, rejections, moves) are kept. Older ones are counted by month in "
            "the ledger."
        ),
    )
    interactions_days: int = Field(
        0,
        ge=0,
        description=(
            "Days that stored events are kept. Older months are deleted and counted in the ledger. 0: kept for ever."
        ),
    )
    topic_retention_ms: int = Field(
        7 * 86_400_000,
        ge=-1,
        description=(
            "Retention of the topic of events in milliseconds, when `tally init` creates it: the range that "
            "can be replayed. -1: unlimited."
        ),
    )
    dead_letter_retention_ms: int = Field(
        -1,
        ge=-1,
        description="Retention of the dead-letter topic in milliseconds, when `tally init` creates it. -1: unlimited.",
    )
    connect_timeout_ms: int = Field(
        10_000, ge=100, description="Milliseconds until a store that does not answer is reported."
    )
    query_timeout_ms: int = Field(
        60_000, ge=1_000, description="Milliseconds until a query or a claim is given up and retried."
    )
    stop_timeout_ms: int = Field(30_000, ge=1_000, description="Milliseconds to finish batches in flight on shutdown.")

    @field_validator("kafka")
    @classmethod
    def _bootstrap(cls, value: str) -> str:
        for server in filter(None, value.split(",")):
            host, _, port = server.strip().rpartition(":")
            is_bare_ipv6 = ":" in host and not (host.startswith("[") and host.endswith("]"))
            if not host or not port.isascii() or not port.isdigit() or is_bare_ipv6:
                raise ValueError("write host:port[,host:port], an address of IPv6 in brackets: [::1]:9092")
        return value

    @field_validator("key_prefix", "topic")
    @classmethod
    def _without_braces(cls, value: str) -> str:
        if "{" in value or "}" in value:
            raise ValueError("must not contain { or }: Redis Cluster places keys by what stands between them")
        return value

    @field_validator("clickhouse_cluster")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        if not re.fullmatch(r"[\w.-]*", value):
            raise ValueError("must be a plain name")
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
    def _keeps_what_is_needed(self) -> Self:
        if self.interactions_days and self.interactions_days * 86_400_000 < 2 * self.reach_back_ms:
            raise ValueError("TALLY_INTERACTIONS_DAYS must be more than 4 times TALLY_DEDUP_WINDOW_MS")
        if self.batch_uncompressed_bytes < self.max_record_bytes:
            raise ValueError("TALLY_BATCH_UNCOMPRESSED_BYTES must be at least TALLY_MAX_RECORD_BYTES")
        return self

    @property
    def dead_letter_topic_name(self) -> str:
        """The dead-letter topic's name."""
        return self.dead_letter_topic or f"{self.topic}.dead-letters"

    @property
    def max_dead_letter_bytes(self) -> int:
        """A letter is its record and the headers that say why."""
        return self.max_record_bytes + MOST_LETTER_BYTES

    @property
    def reach_back_ms(self) -> int:
        """How long before an event's append time an owner of it may have been appended."""
        return 2 * self.dedup_window_ms + self.clock_skew_ms

    @property
    def claim_ttl_ms(self) -> int:
        """How long Redis keeps a claim: the rule looks back 2W; the slack is for a worker whose lag grows.

        The age of claims is known in steps of a 16th of this, so that much is added.
        """
        return (self.reach_back_ms + self.clock_skew_ms + self.claim_slack_ms) * 16 // 15

    @classmethod
    def load(cls, data_dir: Path | None = None, **overrides: Any) -> Self:
        """The settings of this process: overrides, then the environment, then a running stack, then defaults.

        Raises SettingsError naming each variable that cannot be read.
        """
        if unknown := sorted(set(overrides) - set(cls.model_fields)):
            raise SettingsError(f"no such setting: {', '.join(unknown)}")
        chosen = data_dir or Path(os.environ.get("TALLY_DATA_DIR") or DEFAULT_DATA_DIR)
        stack = StackFile.of_running_stack(chosen)
        offered = stack.as_settings() if stack else {}
        named = {name: value for name, value in offered.items() if f"TALLY_{name.upper()}" not in os.environ}
        try:
            loaded = cls(**{**named, "data_dir": chosen, **overrides})
        except ValidationError as error:
            wrong = "; ".join(map(_in_words, error.errors(include_input=False)))
            raise SettingsError(wrong) from None
        hide(loaded.secrets())
        return loaded

    def secrets(self) -> list[str]:
        """The keys and passwords in these settings, those in addresses included."""
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
        """What to do about a setting that neither the environment nor a stack has."""
        phase = Phase.of(self.data_dir)
        if phase and phase.doing != "running":
            return (
                f"{variable} is not set, and the stack in {self.data_dir} is {phase.doing} (pid {phase.pid}): "
                f"wait until it has, or set {variable}"
            )
        return (
            f"{variable} is not set and no stack runs in {self.data_dir}: "
            f"start one with `tally up`, name its folder with --data-dir, or set {variable}"
        )

    def as_environment(self) -> dict[str, str]:
        """What a child process needs in its environment to load these same settings."""
        plain: dict[str, str] = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, SecretStr):
                value = value.get_secret_value()
            if isinstance(value, tuple):
                value = ",".join(value)
            plain[f"TALLY_{name.upper()}"] = str(value)
        return plain


def _in_words(error: ErrorDetails) -> str:
    """What is wrong with a setting, which it names; what is wrong with several together names them by itself."""
    text = error["msg"].removeprefix("Value error, ")
    return f"TALLY_{str(error['loc'][0]).upper()}: {text}" if error["loc"] else text


def with_user(url: str, user: str, password: str) -> str:
    """The same address for another user."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{quote(user, safe='')}:{quote(password, safe='')}@{host}").geturl()


def password_of(url: str) -> str:
    """The password in a URL, as it stands there."""
    return urlsplit(url).netloc.rpartition("@")[0].partition(":")[2]


def without_password(url: str) -> str:
    """A URL that may be shown."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
