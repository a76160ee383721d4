"""Settings of Redis: the address, and the claims that are kept there."""

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings

from schemas.dedup import APPEND_WINDOWS, DEFAULT_WINDOW_MS

CLAIM_AGE_STEPS = 16
"""Steps per time to live in which the age of claims is known."""


class RedisSettings(BaseSettings):
    """Redis: the address, and the claims that are kept there."""

    redis: SecretStr = Field(
        SecretStr(""), description="Redis URL: redis[s]://[user:password@]host:port/db. rediss:// uses TLS."
    )
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

    @property
    def reach_back_ms(self) -> int:
        """How long before an event's append time an owner of it may have been appended."""
        return APPEND_WINDOWS * self.dedup_window_ms + self.clock_skew_ms

    @property
    def claim_ttl_ms(self) -> int:
        """How long Redis keeps a claim: the rule looks back 2W; the slack is for a worker whose lag grows.

        The age of claims is known in steps of a part of this (CLAIM_AGE_STEPS), so that part is added.
        """
        needed_ms = self.reach_back_ms + self.clock_skew_ms + self.claim_slack_ms
        return needed_ms * CLAIM_AGE_STEPS // (CLAIM_AGE_STEPS - 1)
