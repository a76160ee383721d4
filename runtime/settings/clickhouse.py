"""Settings of ClickHouse: the address, the database and its cluster."""

import re

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings


class ClickHouseSettings(BaseSettings):
    """Settings of ClickHouse: the address, the database and its cluster."""

    clickhouse: SecretStr = Field(SecretStr(""), description="ClickHouse URL: http[s]://[user:password@]host:port.")
    clickhouse_cluster: str = Field(
        "",
        description=(
            "Name of the ClickHouse cluster that holds the tables, sharded and replicated. Empty: a single node."
        ),
    )
    database: str = Field("tally", description="ClickHouse database.")
    query_timeout_ms: int = Field(
        60_000, ge=1_000, description="Milliseconds until a query or a claim is given up and retried."
    )

    @field_validator("clickhouse_cluster")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        if not re.fullmatch(r"[\w.-]*", value):
            raise ValueError("must be a plain name")
        return value
