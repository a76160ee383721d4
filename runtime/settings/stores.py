"""Settings of Redis and ClickHouse, and lifetimes of what the stores hold."""

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings

from schemas.dedup import APPEND_WINDOWS, DEFAULT_WINDOW_MS

CLAIM_AGE_STEPS = 16
"""Steps of a claim's lifetime in which its age is known."""

_DAY_MS = 86_400_000


class RedisSettings(BaseSettings):
    """Settings of Redis: the address, and the lifetime of claims."""

    redis: SecretStr = SecretStr("")
    """Redis URL: redis[s]://[user:password@]host:port/db. rediss:// uses TLS."""
    key_prefix: str = "tally"
    """Prefix of all Redis keys."""
    dedup_window_ms: int = Field(DEFAULT_WINDOW_MS, ge=1, le=7 * _DAY_MS)
    """Deduplication window (W) in milliseconds: a repeat within it is a duplicate."""
    claim_slack_ms: int = Field(300_000, ge=0, le=7 * _DAY_MS)
    """Milliseconds that claims outlive 2W. A worker that lags behind by more within 2W rebuilds them."""
    clock_skew_ms: int = Field(60_000, ge=0, le=_DAY_MS)
    """Largest backward step of append times in milliseconds, as when a broker's clock is set or a leader moves."""

    @property
    def reach_back_ms(self) -> int:
        """Largest difference in append time, in milliseconds, between an event and an earlier owner."""
        return APPEND_WINDOWS * self.dedup_window_ms + self.clock_skew_ms

    @property
    def claim_ttl_ms(self) -> int:
        """Lifetime of a claim in Redis, in milliseconds: 2W for the rule, and slack for a worker whose lag grows.

        The age of claims is known in CLAIM_AGE_STEPS steps of the lifetime, so one step is added.
        """
        needed_ms = self.reach_back_ms + self.clock_skew_ms + self.claim_slack_ms
        return needed_ms * CLAIM_AGE_STEPS // (CLAIM_AGE_STEPS - 1)


class ClickHouseSettings(BaseSettings):
    """Settings of ClickHouse: the address, the database and its cluster."""

    clickhouse: SecretStr = SecretStr("")
    """ClickHouse URL: http[s]://[user:password@]host:port."""
    analyst: SecretStr = SecretStr("")
    """ClickHouse URL of a read-only user, for `tally sql` and `tally connect`: http[s]://user:password@host:port.
    Empty: TALLY_CLICKHOUSE."""
    clickhouse_cluster: str = Field("", pattern=r"^[\w.-]*$")
    """Name of the ClickHouse cluster that holds the tables, sharded and replicated. Empty: a single node."""
    database: str = "tally"
    """ClickHouse database."""
    query_timeout_ms: int = Field(60_000, ge=1_000)
    """Milliseconds until a query or a claim is given up and retried."""


class RetentionSettings(BaseSettings):
    """Settings of retention: lifetimes of events, outcomes, records and dead letters; recompression of events."""

    outcomes_days: int = Field(400, ge=1)
    """Days that outcomes (duplicates, rejections, moves) are kept. Older ones are counted by month in the ledger."""
    interactions_days: int = Field(0, ge=0)
    """Days that stored events are kept. Older months are deleted and counted in the ledger. 0: kept for ever."""
    recompress_days: int = Field(30, ge=0)
    """Days after which ClickHouse recompresses stored events to half their size. `tally init` applies a change.
    0: never."""
    topic_retention_ms: int = Field(7 * _DAY_MS, ge=-1)
    """Retention of the topic of events in milliseconds, when `tally init` creates it: the range that can be replayed.
    -1: unlimited."""
    dead_letter_retention_ms: int = Field(-1, ge=-1)
    """Retention of the dead-letter topic in milliseconds, when `tally init` creates it. -1: unlimited."""
