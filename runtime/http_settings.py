"""The settings of the HTTP API: what it takes in, how it answers, and the bounds of both."""

from typing import Annotated

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode

from runtime.http.origins import serialized_origin
from schemas.interaction import MAX_OBJECT_BYTES
from schemas.json_bounds import MAX_DEPTH

MIB = 1024 * 1024


class HttpSettings(BaseSettings):
    """Settings of API processes, a part of `Settings`."""

    lookup_in_flight: int = Field(2_000, ge=1, description="lookups waiting in the reader, at most; then 503")
    read_wait_ms: int = Field(2_000, ge=0, le=60_000, description="until a GET of a young id that is not stored is 404")
    prefer_wait_ms: int = Field(10_000, ge=0, le=60_000, description="what `Prefer: wait` may ask for, at most")
    waiters: int = Field(
        1_000, ge=1, description="requests that wait for an outcome, at most; further ones do not wait"
    )
    lists_in_flight: int = Field(64, ge=1, description="lists of one API process, at most; then 503")
    list_page_bytes: int = Field(
        16 * MIB,
        ge=MIB,
        le=1024 * MIB,
        description="Largest page, in bytes of metadata and query_snapshot. Larger ones are refused with 422.",
    )
    lists_in_flight_bytes: int = Field(
        256 * MIB,
        ge=MIB,
        description="Most bytes of pages that one API process holds until its clients have read them. Then 503.",
    )
    list_timeout_ms: int = Field(20_000, ge=100, description="until a list that reads too much is given up")

    http_in_flight: int = Field(2_000, ge=1, description="requests of one API process, at most; then 503")
    http_body_bytes: int = Field(MIB, ge=1024, le=64 * MIB, description="of a request, uncompressed; then 413")
    http_batch_bytes: int = Field(10 * MIB, ge=1024, le=256 * MIB, description="of a batch, uncompressed; then 413")
    http_batch_items: int = Field(1_000, ge=1, le=10_000, description="of a batch; then 422")
    http_event_bytes: int = Field(
        256 * 1024,
        ge=1024,
        le=2 * MIB,
        description="Largest JSON text of one event, alone or in a batch, in bytes. A larger one is refused with 422.",
    )
    http_list_bytes: int = Field(
        256 * 1024,
        ge=1024,
        le=2 * MIB,
        description="Largest body of a call for a list or a page token, in bytes. Larger ones are refused with 413.",
    )
    http_object_bytes: int = Field(
        MAX_OBJECT_BYTES, ge=2, le=MAX_OBJECT_BYTES, description="metadata and query_snapshot, each; then 422"
    )
    http_depth: int = Field(MAX_DEPTH, ge=2, le=MAX_DEPTH, description="levels of JSON in an event; then 422")
    http_body_timeout_ms: int = Field(30_000, ge=100, description="until a body that does not arrive is 408")
    http_connections: int = Field(
        4_096,
        ge=1,
        le=1_000_000,
        description=(
            "Most connections that one API process serves. Requests on further ones are answered 503, except health, "
            "readiness and metrics."
        ),
    )
    http_head_bytes: int = Field(
        32 * 1024,
        ge=1024,
        le=MIB,
        description="Largest request line with its headers, in bytes. A larger one is refused with 431 or 414.",
    )
    http_headers: int = Field(
        100, ge=16, le=10_000, description="Most headers of one request. A request with more is refused with 431."
    )
    http_head_timeout_ms: int = Field(
        10_000,
        ge=100,
        description=(
            "Time for a request's headers to arrive, and for a new connection to send anything. Then 408, or a close."
        ),
    )
    http_keep_alive_ms: int = Field(
        75_000,
        ge=0,
        description=(
            "Time that an idle connection stays open between requests. Set it above the idle timeout of a load "
            "balancer in front: else that sends requests into connections that close."
        ),
    )
    http_write_timeout_ms: int = Field(
        30_000,
        ge=100,
        description="Time for a client to take another 64 KiB of its answer. A connection that takes less is cut.",
    )
    http_pipelined: int = Field(
        100,
        ge=1,
        le=10_000,
        description="Most requests sent ahead on one connection. The next one is refused with 503.",
    )
    http_log_repeats: int = Field(
        10,
        ge=1,
        description=(
            "Most log lines of one kind that an API process writes in 30 s, besides its access log. Further ones are "
            "counted."
        ),
    )
    http_access_log: bool = Field(True, description="a line for each request, without its query")
    http_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="host names that the API answers to (Host header), separated by commas; empty: any, but only this "
        "machine's own while it listens on a loopback address",
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="origins of pages that may call the API from a browser, such as https://app.example, separated by "
        "commas; *: any",
    )

    collector_in_flight: int = Field(20_000, ge=1, description="events Kafka has not acknowledged, at most; then 503")
    collector_in_flight_bytes: int = Field(64 * MIB, ge=MIB, description="and their bytes, at most; then 503")
    collector_ack_ms: int = Field(
        10_000, ge=100, description="until an event that Kafka has not acknowledged is 503; it may still arrive"
    )

    keys_refresh_ms: int = Field(1_000, ge=50, description="until a key that was made or revoked acts")
    redis_patience_ms: int = Field(200, ge=1, description="until the API goes on without Redis: rate limits, hints")
    rate_limit_per_s: int = Field(2_000, ge=0, description="requests of one key, unless it has its own; 0: no limit")
    rate_limit_burst_ms: int = Field(2_000, ge=1, description="so much of the rate may be spent at once")

    @field_validator("http_hosts", mode="before")
    @classmethod
    def _hosts(cls, value: object) -> object:
        return tuple(filter(None, map(str.strip, value.lower().split(",")))) if isinstance(value, str) else value

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _origins(cls, value: object) -> object:
        named = value.split(",") if isinstance(value, str) else value
        if not isinstance(named, list | tuple):
            return value
        origins = [str(each).strip() for each in named]
        return tuple(each if each == "*" else serialized_origin(each) for each in origins if each)
