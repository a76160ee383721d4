"""Settings of Redis: the address, and the lifetime of claims."""

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings

from schemas.dedup import APPEND_WINDOWS, DEFAULT_WINDOW_MS

CLAIM_AGE_STEPS = 16
"""Steps of a claim's lifetime in which its age is known."""

_DAY_MS = 86_400_000


class RedisSettings(BaseSettings):
    """Settings of Redis: the address, and the lifetime of claims."""

    redis: SecretStr = Field(
        SecretStr(""), description="Redis URL: redis[s]://[user:password@]host:port/db. rediss:// uses TLS."
    )
    key_prefix: str = Field("tally", description="Prefix of all Redis keys.")
    dedup_window_ms: int = Field(
        DEFAULT_WINDOW_MS,
        ge=1,
        le=7 * _DAY_MS,
        description="Deduplication window (W) in milliseconds: a repeat within it is a duplicate.",
    )
    claim_slack_ms: int = Field(
        300_000,
        ge=0,
        le=7 * _DAY_MS,
        description="Milliseconds that claims outlive 2W. A worker that lags behind by more within 2W rebuilds them.",
    )
    clock_skew_ms: int = Field(
        60_000,
        ge=0,
        le=_DAY_MS,
        description=(
            "Largest backward step of append times in milliseconds, as when a broker's clock is set or a leader moves."
        ),
    )

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
