"""Addresses and examples with which other programs connect to the stores and the API of an installation."""

import shlex
from typing import Any, NamedTuple
from urllib.parse import SplitResult, quote, unquote, urlsplit

from runtime.analyst import analyst_url
from runtime.clickhouse import port_of
from runtime.settings import Settings, password_of
from schemas.tables import INTERACTIONS

_COUNT = f"SELECT count() FROM {INTERACTIONS} FINAL"
_RECENT = f"SELECT * FROM {INTERACTIONS} FINAL ORDER BY timestamp DESC LIMIT 1000"
_API_PLACEHOLDER = "https://tally.example"
"""Address of an API that no setting names: `tally serve` runs it elsewhere."""


class Example(NamedTuple):
    """Example of a client. Passwords are in environment variables, so it shows none."""

    client: str
    about: str
    text: str


class Connections:
    """Addresses, users and passwords of an installation, and examples for common clients."""

    def __init__(self, settings: Settings, *, api_url: str) -> None:
        """Take the settings, and the address of the embedded stack's API, if it is one. Raises SettingsError."""
        setting, self._clickhouse = analyst_url(settings)
        self._settings = settings
        self._api = api_url
        self._has_analyst = setting == "TALLY_ANALYST"
        self._redis = urlsplit(settings.redis.get_secret_value())

    @property
    def secrets(self) -> dict[str, str]:
        """Passwords and the API key, by the environment variables that the examples read; without empty ones."""
        found = {
            "CLICKHOUSE_PASSWORD": unquote(self._clickhouse.password or ""),
            "KAFKA_PASSWORD": self._settings.kafka_password.get_secret_value(),
            "REDISCLI_AUTH": unquote(password_of(self._redis.geturl())),
            "TALLY_KEY": self._settings.api_key.get_secret_value(),
        }
        return {name: secret for name, secret in found.items() if secret}

    @property
    def addresses(self) -> dict[str, Any]:
        """Addresses and users of the stores and the API, without passwords. Stores without an address are left out."""
        settings, url = self._settings, self._clickhouse
        found = {
            "clickhouse": {
                "host": url.hostname,
                "port": port_of(url),
                "tls": url.scheme == "https",
                "database": settings.database,
                "user": self._clickhouse_user,
                "read_only": self._has_analyst,
            },
            "kafka": {
                "bootstrap_servers": settings.kafka,
                "security_protocol": settings.kafka_security_protocol,
                "topic": settings.topic,
                "dead_letter_topic": settings.dead_letter_topic_name,
            }
            if settings.kafka
            else None,
            "redis": {"url": _without_password(self._redis), "key_prefix": settings.key_prefix}
            if self._redis.hostname
            else None,
            "api": {"url": self._api, "documentation": f"{self._api}/docs"} if self._api else None,
        }
        return {name: address for name, address in found.items() if address}

    @property
    def examples(self) -> list[Example]:
        """One example for each client."""
        return [*self._api_examples(), *self._clickhouse_examples(), *self._kafka_examples(), *self._redis_examples()]

    @property
    def _clickhouse_user(self) -> str:
        return unquote(self._clickhouse.username or "default")

    def _api_examples(self) -> list[Example]:
        url = self._api or _API_PLACEHOLDER
        text = (
            f'curl -s "{url}/v1/retrievers/interactions/list?limit=10" -H "Authorization: Bearer $TALLY_KEY" -d "{{}}"'
        )
        return [Example("api", "the HTTP API; its documentation is at /docs", text)]

    def _clickhouse_examples(self) -> list[Example]:
        url, database, user = self._clickhouse, self._settings.database, self._clickhouse_user
        host, port, is_tls = url.hostname or "", port_of(url), url.scheme == "https"
        address = f"{url.scheme}://{f'[{host}]' if ':' in host else host}:{port}"
        curl = f'curl -s "{address}/?database={quote(database)}" --user {shlex.quote(user)}:"$CLICKHOUSE_PASSWORD"'
        native = f"clickhouse-client --host {host} --user {shlex.quote(user)} --database {shlex.quote(database)}"
        fields = f"host {host}, port {port}, protocol HTTP{'S' if is_tls else ''}, database {database}, user {user}"
        reads = "it reads CLICKHOUSE_PASSWORD"
        no_native = f"{reads}; the embedded stack has no native port, use `tally sql` instead"
        return [
            Example("curl", "ClickHouse over HTTP", f'{curl} -d "{_COUNT}"'),
            Example("clickhouse-client", no_native if self._api else reads, native + (" --secure" if is_tls else "")),
            *self._python_examples(),
            Example("grafana", "fields of a data source of the plugin grafana-clickhouse-datasource", fields),
            Example("jdbc", f"DBeaver and others; user {user}", f"jdbc:clickhouse:{address}/{quote(database)}"),
        ]

    def _python_examples(self) -> list[Example]:
        url = self._clickhouse
        client = (
            f"client = clickhouse_connect.get_client(\n"
            f"    host={url.hostname!r}, port={port_of(url)}, secure={url.scheme == 'https'},\n"
            f"    database={self._settings.database!r}, username={self._clickhouse_user!r},\n"
            f'    password=os.environ.get("CLICKHOUSE_PASSWORD", ""),\n'
            ")\n"
        )
        imports = "import os\n\nimport clickhouse_connect\n"
        return [
            Example(
                "clickhouse-connect",
                "Python: pip install clickhouse-connect",
                f'{imports}\n{client}print(client.query("{_COUNT}").result_rows)',
            ),
            Example(
                "pandas",
                "Python: pip install clickhouse-connect pandas",
                f'{imports}\n{client}print(client.query_df("{_RECENT}"))',
            ),
            Example(
                "polars",
                "Python: pip install clickhouse-connect polars",
                f"import io\n{imports}import polars\n\n{client}"
                f'parquet = client.raw_query("{_RECENT}", fmt="Parquet")\n'
                "print(polars.read_parquet(io.BytesIO(parquet)))",
            ),
        ]

    def _kafka_examples(self) -> list[Example]:
        settings = self._settings
        if not settings.kafka:
            return []
        properties = {"bootstrap.servers": settings.kafka}
        if settings.kafka_security_protocol != "PLAINTEXT":
            properties["security.protocol"] = settings.kafka_security_protocol
        if settings.kafka_security_protocol.startswith("SASL"):
            properties["sasl.mechanism"] = settings.kafka_sasl_mechanism
            properties["sasl.username"] = settings.kafka_username
        if settings.tls_ca_file:
            properties["ssl.ca.location"] = settings.tls_ca_file
        options = " ".join(f"-X {name}={shlex.quote(value)}" for name, value in properties.items())
        if settings.kafka_password.get_secret_value():
            options += ' -X sasl.password="$KAFKA_PASSWORD"'
        return [
            Example(
                "kafka",
                f"any client; topic {settings.topic}. Format and partitioner of events: docs/wire.md",
                "\n".join(f"{name}={value}" for name, value in properties.items()),
            ),
            Example("kcat", "the last ten records", f"kcat -C -t {settings.topic} -o -10 -e {options}"),
        ]

    def _redis_examples(self) -> list[Example]:
        if not self._redis.hostname:
            return []
        text = f"redis-cli -u {_without_password(self._redis)} info keyspace"
        return [Example("redis-cli", "it reads REDISCLI_AUTH; claims are Tally's own, change none", text)]


def _without_password(url: SplitResult) -> str:
    """Return a URL with its user and without its password."""
    credentials, _, host = url.netloc.rpartition("@")
    user = credentials.partition(":")[0]
    return url._replace(netloc=f"{user}@{host}" if user else host).geturl()
