"""Settings of learned weights and session signals."""

from pydantic import Field
from pydantic_settings import BaseSettings

KIB = 1024


class WeightSettings(BaseSettings):
    """Bounds and pace of learned weights: counts, contexts in memory, decisions, session signals."""

    learning_config_refresh_ms: int = Field(2_000, ge=50, le=600_000)
    """Milliseconds until a changed learning configuration is known to every process."""
    learning_configs: int = Field(1_000, ge=1, le=100_000)
    """Maximum retrievers of a namespace that have a learning configuration."""
    weight_bounds_every_ms: int = Field(3_600_000, ge=0, le=7 * 86_400_000)
    """Milliseconds between measurements of tally_weight_days_at_clip in each API process. 0: it is not measured."""
    aggregates_every_ms: int = Field(30_000, ge=50, le=86_400_000)
    """Milliseconds between counts of the days that new events or deletions touched. One API process at a time
    counts, and only for retrievers with a learning configuration."""
    aggregates_days_per_round: int = Field(31, ge=1, le=10_000)
    """Maximum days of one namespace, each counted once for each retriever, between two looks for touched days. Progress
    is stored after each look."""
    aggregates_stale_ms: int = Field(300_000, ge=1_000)
    """Milliseconds without a count, while retrievers have learning configurations, that are reported as stale."""
    weights_refresh_ms: int = Field(1_000, ge=50, le=600_000)
    """Milliseconds until an API process serves weights from new counts."""
    weight_contexts: int = Field(100_000, ge=1, le=10_000_000)
    """Maximum contexts (users, segments) whose counts an API process keeps in memory."""
    weights_in_flight: int = Field(2_000, ge=1)
    """Maximum requests for weights in flight in one API process. Further ones are answered 503."""
    breaker_open_ms: int = Field(5_000, ge=10, le=3_600_000)
    """Milliseconds during which static weights are served, after weights took longer than the configuration's
    circuit_breaker_timeout_ms or a store failed."""
    signals_waiting: int = Field(100_000, ge=1, le=10_000_000)
    """Maximum recorded decisions that wait in one API process for their insert. Further ones are not recorded, and are
    counted in tally_signals_dropped_total."""
    signals_waiting_bytes: int = Field(64 * 1024 * KIB, ge=1024 * KIB, le=16 * 1024 * 1024 * KIB)
    """Maximum bytes of recorded decisions that wait in one API process for their insert. Further ones are not recorded,
    as beyond TALLY_SIGNALS_WAITING."""
    session_ttl_ms: int = Field(3_600_000, ge=1_000, le=7 * 86_400_000)
    """Milliseconds after its last event that a session's signals are kept in Redis."""
    session_span_ms: int = Field(86_400_000, ge=60_000, le=7 * 86_400_000)
    """Milliseconds before a session's signals are read from ClickHouse from which its events count."""
    session_check_ms: int = Field(5_000, ge=50, le=3_600_000)
    """Milliseconds between a worker's checks, while nothing arrives, that Redis has lost no session signals."""
    session_bytes: int = Field(16 * KIB, ge=256, le=1024 * KIB)
    """Maximum bytes of one session's signals in Redis. The signals of a larger session are not used."""
    sessions: int = Field(1_000_000, ge=16, le=100_000_000)
    """Maximum sessions whose signals are kept in Redis. Those without events for the longest time are dropped first."""
    session_prior_strength: float = Field(20.0, ge=1, le=1e6)
    """Number of observations that the weight of a feature before a session counts for against the session's events."""
