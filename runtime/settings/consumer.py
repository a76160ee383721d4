"""Settings of workers: their group, batches and reject fuses."""

from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings

from runtime.sizes import MIB


class ConsumerSettings(BaseSettings):
    """Settings of workers: their group, batches and reject fuses."""

    group: str = "tally"
    """Consumer group id. Changing it restarts consumption from the earliest offset."""
    session_timeout_ms: int = Field(10_000, ge=1_000)
    """Milliseconds without a heartbeat until a worker loses its partitions."""
    stuck_ms: int = Field(30_000, ge=100)
    """Milliseconds without a commit, while records wait, after which a partition is reported as stuck."""
    topic_check_ms: int = Field(10_000, ge=50)
    """Milliseconds between a worker's checks of the topic's settings and its partitions' progress."""
    batch_rows: int = Field(150_000, ge=1, le=1_000_000)
    """Maximum rows per insert."""
    batch_bytes: int = Field(64 * MIB, ge=1, le=1024 * MIB)
    """Maximum encoded bytes per insert."""
    batch_uncompressed_bytes: int = Field(64 * MIB, ge=MIB, le=1024 * MIB)
    """Largest record batch that is read, in bytes, uncompressed. The offsets of a larger one are rejected; reading one
    takes about four times as much memory."""
    batch_age_ms: int = Field(100, ge=1, le=60_000)
    """Maximum batching delay in milliseconds, while fewer records wait at the broker than fill a batch."""
    reject_window: int = Field(10_000, ge=1)
    """Records of one namespace in one worker over which its reject fuse counts. It trips when at least half were
    rejected, and closes when less than half are."""
    reject_policy: Literal["drain", "hold"] = "drain"
    """Treatment of valid events while their namespace's reject fuse has tripped: drain stores them, hold makes them
    dead letters (namespace_held) to replay later."""
    stop_timeout_ms: int = Field(30_000, ge=1_000)
    """Milliseconds to finish batches in flight on shutdown."""
    worker_niceness: int = Field(0, ge=0, le=19)
    """Niceness of a worker process, 0 to 19. While all cores of its machine are busy, 5 makes lookups faster and events
    visible later. Without effect in a container of its own."""
    metrics_port: int = Field(0, ge=0, le=65535)
    """Port of a worker's /metrics, /v1/health and /v1/ready; several workers count up from it. 0: none."""
    metrics_host: str = "127.0.0.1"
    """Address that a worker's metrics port listens on."""
