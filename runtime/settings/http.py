"""Settings of the HTTP API: bounds of requests, connections, lists and lookups."""

import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode

from runtime.http.origins import serialized_origin
from runtime.sizes import MIB

_ADDRESS = re.compile(r"https?://[\w.:\[\]-]+(/[!$%&'()*+,./:;=@\w~-]*)?", re.ASCII)


class HttpSettings(BaseSettings):
    """Settings of API processes."""

    lookup_in_flight: int = Field(2_000, ge=1)
    """Maximum lookups in flight in a reader. Further ones are answered 503."""
    read_wait_ms: int = Field(2_000, ge=0, le=60_000)
    """Milliseconds that a GET waits for an event in flight before it answers 404."""
    prefer_wait_ms: int = Field(10_000, ge=0, le=60_000)
    """Longest wait in milliseconds that a request may ask for with `Prefer: wait`."""
    waiters: int = Field(1_000, ge=1)
    """Maximum requests that wait for an outcome. Further ones do not wait."""
    lists_in_flight: int = Field(64, ge=1)
    """Maximum list queries in flight in one API process. Further ones are answered 503."""
    list_page_bytes: int = Field(16 * MIB, ge=MIB, le=1024 * MIB)
    """Largest page of a list, in bytes of metadata and query_snapshot. A larger one is refused with 422."""
    lists_in_flight_bytes: int = Field(256 * MIB, ge=MIB)
    """Maximum bytes of pages that one API process holds until clients have read them. Then 503."""
    list_timeout_ms: int = Field(20_000, ge=100)
    """Milliseconds until a list query is given up."""
    recent_events_bytes: int = Field(64 * MIB, ge=MIB)
    """Maximum bytes of recent events that one API process keeps for the callers that follow them."""

    exports_in_flight: int = Field(4, ge=1, le=1_000)
    """Maximum exports in flight in one API process. Further ones are answered 503."""
    export_timeout_ms: int = Field(3_600_000, ge=1_000)
    """Milliseconds until an export is given up, the time of its reader included."""

    replay_letters: int = Field(1_000, ge=1, le=100_000)
    """Maximum dead letters that one request replays. The answer says whether more are left."""
    letter_reads_in_flight: int = Field(8, ge=1, le=1_000)
    """Maximum requests of one API process that read dead letters from Kafka. Further ones are answered 503."""

    http_in_flight: int = Field(2_000, ge=1)
    """Maximum requests in flight in one API process. Further ones are answered 503."""
    http_body_bytes: int = Field(MIB, ge=1024, le=64 * MIB)
    """Largest request body in bytes, uncompressed. A larger one is refused with 413."""
    http_batch_bytes: int = Field(10 * MIB, ge=1024, le=256 * MIB)
    """Largest body of a batch request in bytes, uncompressed. A larger one is refused with 413."""
    http_batch_items: int = Field(1_000, ge=1, le=10_000)
    """Maximum events in a batch request. A larger batch is refused with 422."""
    http_event_bytes: int = Field(256 * 1024, ge=1024, le=2 * MIB)
    """Largest JSON text of one event in bytes, alone or in a batch. A larger one is refused with 422."""
    http_list_bytes: int = Field(256 * 1024, ge=1024, le=2 * MIB)
    """Largest body of a list or page-token request in bytes. A larger one is refused with 413."""
    http_body_timeout_ms: int = Field(30_000, ge=100)
    """Milliseconds for a request body to arrive. Then 408."""
    http_connections: int = Field(4_096, ge=1, le=1_000_000)
    """Maximum connections that one API process serves. Requests on further ones are answered 503, except health,
    readiness and metrics."""
    http_head_bytes: int = Field(32 * 1024, ge=1024, le=MIB)
    """Largest request line with its headers, in bytes. A larger one is refused with 431 or 414."""
    http_headers: int = Field(100, ge=16, le=10_000)
    """Maximum headers of a request. A request with more is refused with 431."""
    http_head_timeout_ms: int = Field(10_000, ge=100)
    """Milliseconds for a request's headers to arrive, and for a new connection to send anything. Then 408, or the
    connection is closed."""
    http_keep_alive_ms: int = Field(75_000, ge=0)
    """Milliseconds that an idle connection stays open. Set it above the idle timeout of a load balancer in front, which
    otherwise sends requests into closing connections."""
    http_write_timeout_ms: int = Field(30_000, ge=100)
    """Milliseconds for a client to read another 64 KiB of its answer. A slower connection is cut."""
    http_pipelined: int = Field(100, ge=1, le=10_000)
    """Maximum pipelined requests on one connection. The next one is refused with 503."""
    http_log_repeats: int = Field(10, ge=1)
    """Maximum log lines of one kind that an API process writes in 30 s, besides its access log. Further ones are
    counted."""
    http_access_log: bool = True
    """Whether each request is logged, without its query string."""
    http_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Host names that the API answers to (Host header), separated by commas. Empty: any, but only this machine's own
    while it listens on a loopback address."""
    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    """Origins of pages that may call the API from a browser, such as https://app.example, separated by commas. *:
    any."""
    console_url: str = Field("", max_length=2_048)
    """Address of the web console, http[s]://host[:port][/path], to which `/` of the API redirects. Empty: `/` answers
    with the addresses of the API's documentation."""

    collector_in_flight: int = Field(20_000, ge=1)
    """Maximum events of a collector that Kafka has not acknowledged. Further ones are answered 503."""
    collector_in_flight_bytes: int = Field(64 * MIB, ge=MIB)
    """Maximum bytes of events that Kafka has not acknowledged. Further ones are answered 503."""
    collector_ack_ms: int = Field(10_000, ge=100)
    """Milliseconds until an event that Kafka has not acknowledged is answered 503. It may still arrive."""

    refusal_namespaces: int = Field(500, ge=0, le=100_000)
    """Maximum namespaces of which one API process counts refused and accepted events in an hour, for `/v1/refusals`.
    Each takes about 30 kB of Redis with one API key, 6 MB with 100 keys, 40 MB if its requests are invalid in ever new
    ways. 0: no counts."""

    keys_refresh_ms: int = Field(1_000, ge=50)
    """Milliseconds until a created or revoked API key takes effect."""
    keys_valid: int = Field(10_000, ge=1, le=1_000_000)
    """Maximum API keys that are not revoked. `POST /v1/keys` refuses further ones; `tally keys create` does not."""
    redis_patience_ms: int = Field(200, ge=1)
    """Milliseconds until the API proceeds without Redis, skipping rate limits and duplicate hints."""
    rate_limit_per_s: int = Field(2_000, ge=0)
    """Requests per second allowed for an API key without a rate of its own. 0: unlimited."""
    rate_limit_burst_ms: int = Field(2_000, ge=1)
    """Milliseconds of the rate limit that may be used at once."""

    @field_validator("http_hosts", mode="before")
    @classmethod
    def _hosts(cls, value: object) -> object:
        return tuple(filter(None, map(str.strip, value.lower().split(",")))) if isinstance(value, str) else value

    @field_validator("console_url")
    @classmethod
    def _console(cls, value: str) -> str:
        try:
            is_address = _ADDRESS.fullmatch(value) and urlsplit(value).hostname and urlsplit(value).port != 0
        except ValueError:
            is_address = False
        if value and not is_address:
            raise ValueError("write http[s]://host[:port][/path] in ASCII, without user, query and fragment")
        return value

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _origins(cls, value: object) -> object:
        named = value.split(",") if isinstance(value, str) else value
        if not isinstance(named, list | tuple):
            return value
        origins = [str(each).strip() for each in named]
        return tuple(each if each == "*" else serialized_origin(each) for each in origins if each)
